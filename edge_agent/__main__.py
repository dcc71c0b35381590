"""The ``edge-agent`` command: everything that runs on the device."""

from __future__ import annotations

import logging
import platform
import sys
from contextlib import ExitStack
from pathlib import Path

import click

from edge_agent import __version__
from edge_agent.command import run_command
from edge_agent.contract.errors import ConfigError

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUTPUT = click.Path(dir_okay=False, path_type=Path, writable=True)


def main() -> None:
    """Run the command."""
    run_command("edge-agent", cli)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edge-agent")
def cli() -> None:
    """Decide on the device, keep every record, take new models over MQTT."""
    _require_platform()


@cli.command()
@click.argument("config", type=_FILE)
def run(config: Path) -> None:
    """Run the agent until SIGTERM, Ctrl-C or the end of every source.

    Example: edge-agent run /etc/edge-agent.yaml
    """
    from edge_agent import agent
    from edge_agent.config import load_config

    loaded = load_config(config)
    logging.basicConfig(
        level=loaded.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    agent.run(loaded, config.resolve().parent)


@cli.command("check-config")
@click.argument("config", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print the whole configuration as JSON.")
def check_config(config: Path, *, as_json: bool) -> None:
    """Check a configuration and say what it means, without running anything.

    Example: edge-agent check-config edge-agent.yaml
    """
    from edge_agent.check import check
    from edge_agent.config import load_config
    from edge_agent.contract.messages import encode

    loaded = load_config(config)
    summary = check(loaded, config.resolve().parent)
    click.echo(encode(loaded).decode() if as_json else summary)


@cli.command()
@click.argument("bundle", type=_FILE, required=False)
@click.option("--input", "recording", type=_FILE, help="CSV or NPZ to feed; else golden vectors.")
@click.option("--array", default="signal", show_default=True, help="NPZ array of the readings.")
@click.option("--threads", type=int, multiple=True, help="Only so many; several: again.")
@click.option("--provider", "providers", multiple=True, help="Only this one; several: again.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 3600),
    default=10.0,
    show_default=True,
    help="Measuring time in all.",
)
@click.option("--json", "json_file", type=_OUTPUT, help="Write the figures there.")
@click.option("--plot", "plot_file", type=_OUTPUT, help="Draw the latencies there, as SVG.")
@click.option("--publish", is_flag=True, help="Send the figures to the broker, retained.")
@click.option("--config", type=_FILE, help="The agent's configuration, for --publish.")
@click.option("--compare", nargs=2, type=_FILE, metavar="A B", help="Two files of --json instead.")
def bench(
    bundle: Path | None,
    *,
    recording: Path | None,
    array: str,
    threads: tuple[int, ...],
    providers: tuple[str, ...],
    seconds: float,
    json_file: Path | None,
    plot_file: Path | None,
    publish: bool,
    config: Path | None,
    compare: tuple[Path, Path] | None,
) -> None:
    """Measure a bundle on this machine: load, warm-up, steady state, memory, operators.

    Tries 1, 2, 4, ... threads and every provider that the model can use, in fresh processes that
    take turns, and a reading's whole way. Says how the machine was meanwhile: clock, temperature,
    throttling. 'edge-convert build --target' reads the file of --json; 'edge-fleet bench' shows
    what --publish sent.

    With --compare the exit code is 1 when the two were fed different values.

    Example: edge-agent bench motion-1.0.0.bundle --json pi.json --plot pi.svg

    Example: edge-agent bench --compare before.json after.json
    """
    from edge_agent.bench import commands

    if compare:
        if bundle or publish:
            raise click.UsageError("--compare takes two files of --json, and no bundle")
        sys.exit(commands.compare_files(*compare, json_file=json_file, plot_file=plot_file))
    if bundle is None:
        raise click.UsageError("name a bundle, or two files of --json by --compare")
    if publish != (config is not None):
        raise click.UsageError("--publish and --config AGENT.yaml go together")
    result = commands.measure(
        bundle,
        recording=recording,
        array=array,
        threads=threads,
        providers=providers,
        seconds=seconds,
    )
    commands.keep(result, json_file=json_file, plot_file=plot_file)
    if config:
        click.echo(f"published as {commands.send(result, config)}")


@cli.command()
@click.argument("bundle", type=_FILE)
@click.argument("recording", type=_FILE)
@click.option("--labels", metavar="NAME", help="CSV column or NPZ array that holds the truth.")
@click.option("--array", default="signal", show_default=True, help="NPZ array of the readings.")
@click.option("--decisions", "to", type=_OUTPUT, help="Write decisions there, one JSON a line.")
@click.option("--json", "json_file", type=_OUTPUT, help="Write the figures there.")
@click.option("--quiet", is_flag=True, help="Do not print each decision.")
def replay(
    bundle: Path,
    recording: Path,
    *,
    labels: str | None,
    array: str,
    to: Path | None,
    json_file: Path | None,
    quiet: bool,
) -> None:
    """Run a recording through a bundle, without any broker, as fast as it goes.

    Prints every decision, the accuracy where labels are given, and latency percentiles. The last
    line is RESULT and the figures as JSON.

    Example: edge-agent replay motion-1.0.0.bundle subject8.csv --labels exercise
    """
    from edge_agent import replay as replaying
    from edge_agent.contract.messages import encode

    with ExitStack() as stack:
        file = stack.enter_context(to.open("wb")) if to else None

        def each(decision: replaying.Replayed) -> None:
            if not quiet:
                click.echo(replaying.format_line(decision))
            if file:
                file.write(encode(decision) + b"\n")

        result = replaying.replay(bundle, recording, labels=labels, array=array, each=each)
    figures = encode(result)
    if json_file:
        json_file.write_bytes(figures + b"\n")
    click.echo(replaying.format_text(result))
    click.echo(b"RESULT " + figures)


@cli.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--config", required=True, type=_FILE, help="The agent's configuration.")
@click.option("--unsigned", is_flag=True, help="Take a bundle that nobody signed, all the same.")
def install(path: Path, config: Path, *, unsigned: bool) -> None:
    """Install models by hand; the agent uses them from its next start.

    PATH is a folder that edge-fleet export wrote, such as a USB stick: what its signed metadata
    order for this device is checked as over a network; the agent must not run meanwhile. Or it is
    a .bundle file, which a device that runs signed models takes with --unsigned only. Run this as
    the agent's user, who must be able to write what is installed.

    Example: edge-agent install /media/stick/edge --config /etc/edge-agent.yaml

    Example: edge-agent install motion-1.1.0.bundle --config edge-agent.yaml
    """
    from edge_agent import install as installing
    from edge_agent.config import load_config

    logging.basicConfig(level=logging.WARNING, format="edge-agent: %(message)s")
    loaded, base = load_config(config), config.resolve().parent
    if not path.is_dir():
        click.echo(installing.install_bundle(loaded, base, path, unsigned=unsigned))
        return
    if unsigned:
        raise ConfigError("--unsigned is for a single bundle: a folder is always checked")
    for outcome in installing.install_folder(loaded, base, path, lambda s: click.echo(s, err=True)):
        click.echo(outcome)


@cli.group()
def service() -> None:
    """Run the agent by systemd."""


@service.command("install")
@click.argument("config", type=_FILE)
@click.option("--user", default="root", show_default=True, help="Whom the agent runs as.")
@click.option("--memory-max", default="384M", show_default=True, help="Limit, as systemd has it.")
@click.option("--output", type=_OUTPUT, help="Write the unit there instead; '-' prints it.")
def service_install(config: Path, user: str, memory_max: str, output: Path | None) -> None:
    """Write a hardened systemd unit for a configuration.

    Example: sudo edge-agent service install /etc/edge-agent.yaml --user edge
    """
    from edge_agent.config import load_config
    from edge_agent.folder import DataFolder
    from edge_agent.service import UNIT_PATH, unit_text

    config = config.resolve()
    data_dir = (config.parent / load_config(config).data_dir).resolve()
    text = unit_text(
        config, executable=_executable(), user=user, data_dir=data_dir, memory_max=memory_max
    )
    if output and str(output) == "-":
        click.echo(text, nl=False)
        return
    target = output or UNIT_PATH
    DataFolder(data_dir)
    try:
        target.write_text(text)
    except OSError as exc:
        raise ConfigError(f"{target}: {exc.strerror}: run this as root, or use --output") from exc
    click.echo(f"wrote {target}; now:")
    click.echo(f"  sudo chown -R {user} {data_dir}")
    click.echo("  sudo systemctl daemon-reload")
    click.echo("  sudo systemctl enable --now edge-agent")


@cli.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-out"),
    show_default=True,
    help="Where configuration, bundles and logs are left.",
)
@click.option("--json", "json_file", type=_OUTPUT, help="Write the figures there.")
def demo(out: Path, json_file: Path | None) -> None:
    """Train, convert, run, push over MQTT, cut the broker off, push again: two minutes.

    Example: edge-agent demo --out demo-out
    """
    from edge_agent.demo import run as run_demo

    sys.exit(run_demo(out, json_file))


def _executable() -> Path:
    """The ``edge-agent`` command of this installation."""
    return Path(sys.executable).parent / "edge-agent"


def _require_platform() -> None:
    """Say at once what onnxruntime would say less clearly.

    Raises:
        ConfigError: not 64-bit Linux.
    """
    if sys.platform != "linux" or sys.maxsize < 2**32:
        raise ConfigError(
            f"this is {platform.system()} with a {64 if sys.maxsize > 2**32 else 32}-bit Python; "
            "the agent needs 64-bit Linux, on a Raspberry Pi the 64-bit Pi OS"
        )


if __name__ == "__main__":
    main()
