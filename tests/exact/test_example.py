"""The example of exact unlearning runs, learns, and costs what it was expected to cost."""

import pytest


@pytest.mark.slow
def test_requests_on_digits(capsys):
    from examples.exact_unlearning import main

    found = main(requests=2, epochs=30)
    said = capsys.readouterr().out
    assert min(found["SISA"] + found["S3T"]) > 0.93
    assert "S3T to survive\n37 requests without any, 19 with 95 % confidence" in said
    assert "S3T: accuracy" in said and "a request cost 0.000 trainings" in said
