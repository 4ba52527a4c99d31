"""Where shards are computed: here, in processes, on a dask cluster, or in the jobs of an array."""
