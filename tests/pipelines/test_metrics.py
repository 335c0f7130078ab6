import re

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.metrics import TENANTS_MAX, count_result, exposition, stream_metrics
from tests.pipelines.stored import result


def test_every_worker_shows_with_its_name_and_a_bad_entry_hides_nothing() -> None:
    one, two = stream_metrics(), stream_metrics()
    one.fragments_in.inc(3)
    two.fragments_in.inc(4)
    texts = {
        "a": generate_latest(one.registry).decode(),
        "b": generate_latest(two.registry).decode(),
        "c": 'broken{label="',
    }
    families = text_string_to_metric_families(exposition(texts).decode())
    samples = {(s.name, s.labels.get("worker")): s.value for family in families for s in family.samples}
    assert samples["undertone_fragments_in_total", "a"] == 3
    assert samples["undertone_fragments_in_total", "b"] == 4


def test_every_name_carries_its_unit() -> None:
    page = generate_latest(stream_metrics().registry).decode()
    names = set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))
    assert names
    units = ("_total", "_seconds", "_records", "_created", "_in_flight", "_open")
    assert [name for name in names if not name.endswith(units)] == []


def test_tenants_beyond_the_first_ones_share_a_label() -> None:
    metrics = stream_metrics()
    for number in range(TENANTS_MAX + 50):
        count_result(metrics, result(0, tenant=f"t{number}"), 1.0)

    (family,) = metrics.utterances.collect()
    counted = {sample.labels["tenant"]: sample.value for sample in family.samples if sample.name.endswith("_total")}
    assert len(counted) == TENANTS_MAX + 1
    assert counted["other"] == 50
