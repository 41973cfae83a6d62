from __future__ import annotations

from hpc.serving.probe import parse_metrics

TEXT = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 2.0
vllm:num_requests_running{engine="1",model_name="tiny"} 1.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 4.0
vllm:generation_tokens_total{engine="0"} 1.2e+03
rubbish {{{
"""


def test_metrics_are_summed_over_engines_and_missing_ones_are_zero() -> None:
    metrics = parse_metrics(TEXT)
    assert (metrics.running, metrics.waiting, metrics.generated) == (3.0, 4.0, 1200.0)
    assert metrics.prefix_hits == 0.0
    assert parse_metrics("") == parse_metrics("<html>")
