"""What the manifest of a bundle says, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edge_agent.contract.bundle import Bundle
from edge_agent.contract.manifest import Channel, DecideSpec, Manifest, Variant


def describe(bundle: Bundle) -> str:
    """A bundle in some twenty lines."""
    return "\n".join(_lines(bundle.manifest, bundle.digest))


def _lines(manifest: Manifest, digest: str) -> Iterator[str]:
    window, golden, source = manifest.window, manifest.golden, manifest.provenance
    yield f"{manifest.name} {manifest.version}: {manifest.task} by {source.estimator}"
    yield f"sha256    {digest}"
    yield f"labels    {', '.join(manifest.labels) or '-'}"
    yield f"window    {window.length} readings every {window.hop}, {window.rate_hz:g} readings/s"
    for channel in manifest.channels:
        yield f"channel   {_channel(channel)}"
    yield f"decide    {_decide(manifest.decide)}"
    for variant in manifest.variants:
        yield f"{'chosen ' if variant.chosen else 'lost   '}   {_variant(variant)}"
        yield f"          {variant.why}"
    yield f"golden    {golden.count} vectors, within {golden.atol:g} + {golden.rtol:g} of the value"
    yield f"needs     agent {manifest.agent_min}, {_pairs(manifest.opsets)}"
    yield f"model     {source.model_sha256}"
    yield f"data      {source.data_sha256}"
    yield f"made with {_pairs(source.packages)}"


def _channel(channel: Channel) -> str:
    low = "-" if channel.minimum is None else f"{channel.minimum:g}"
    high = "-" if channel.maximum is None else f"{channel.maximum:g}"
    unit = f" [{channel.unit}]" if channel.unit else ""
    return (
        f"{channel.name}{unit}, range {low} to {high}: {channel.on_range}; "
        f"missing: {channel.on_missing}"
    )


def _decide(spec: DecideSpec) -> str:
    return (
        f"threshold {spec.threshold:g}, hysteresis {spec.hysteresis:g}, debounce {spec.debounce}, "
        f"cooldown {spec.cooldown_s:g} s, fires on {', '.join(spec.fire_on) or 'every change'}"
    )


def _variant(variant: Variant) -> str:
    figures, parity = variant.figures, variant.parity
    return (
        f"{variant.name}: {figures.file_bytes / 1024:.1f} KiB, "
        f"{figures.rss_bytes / 2**20:.1f} MiB resident, load {figures.load_ms:.1f} ms, "
        f"p50 {figures.p50_us:.1f} µs, p99 {figures.p99_us:.1f} µs, {parity.metric} "
        f"{parity.original:.4f} to {parity.converted:.4f}, {parity.label_flips} of "
        f"{parity.windows} labels differ"
    )


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(values.items()))
