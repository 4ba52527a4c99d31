from pathlib import Path

from featcache.demo import run


def test_demo_tells_the_whole_story(tmp_path: Path) -> None:
    """Model A learns, its features carry over to new digits, and predictions come from image files."""
    result, text = run(tmp_path / "demo")
    assert result["model_a_accuracy"] > 0.9
    assert result["rows"] == 896
    assert result["computed"] == 896
    scores = {name: score["accuracy"] for name, score in result["accuracy"].items()}
    assert scores["logreg on features"] > 0.9
    assert len(scores) == 3
    assert len(result["predictions"]) == 10
    assert all(Path(path).exists() for path in [result["model_a"], result["cache"], *result["heads"].values()])
    assert str(tmp_path / "demo") in text
