"""What the hosts run: the preparation at every boot, and the job."""

from __future__ import annotations

from launch_tpu.hosts.commands import Argv, File, join
from launch_tpu.hosts.spec import Spec

_BUSY = 75


def worker(spec: Spec) -> Argv:
    """The command of the job, the same on every host."""
    return (
        spec.python,
        "-m",
        "launch_tpu.hosts.worker",
        f"--processes={spec.hosts}",
        f"--devices={spec.devices}",
        f"--join_seconds={spec.join_seconds}",
        f"--max_seconds={spec.max_seconds}",
        f"--module={spec.module}",
        "--",
        *spec.flags,
        f"--workdir={spec.workdir}",
    )


def in_container(spec: Spec) -> str:
    """Set-up and job as one line, in which no comment of a set-up line hides what follows."""
    prepared = (join(("eval", line)) for line in spec.setup)
    return " && ".join([*prepared, join(worker(spec))])


def over_ssh(spec: Spec) -> str:
    """Wait until the host is prepared, then run the job, as one line."""
    return (
        f"home={_home(spec)}; "
        'until [ -e "$home/ready" ]; do '
        'if [ -e "$home/failed" ]; then '
        'echo "error: expected a prepared host, found that its set-up failed; see'
        ' $home/startup.log on it" >&2; exit 1; fi; '
        'sleep 2; done; cd "$home" || exit 1; ' + _job(spec)
    )


def startup(spec: Spec, *, last: Argv | None) -> File:
    """The start-up script of the hosts, which may run any number of times.

    Args:
      spec: of the job.
      last: deletes the hosts when their time is over. None: the service does that; then the script
        also runs the job, and powers the host off after it.
    """
    parts = [_HEAD.format(name=spec.name, home=_home(spec))]
    if last is None:
        parts += ["# A host that has nothing left to do must not cost anything.\n", _POWER_OFF]
    else:
        parts += [_DEADLINE.format(seconds=spec.max_seconds, last=join(last))]
    parts += [_SETUP.format(lines="\n".join(spec.setup) or ":")]
    if last is None:
        parts += [f"\n# The job goes on from what its workdir holds.\n{_job(spec)}\n"]
    return File(f".launch_tpu/{spec.name}/startup.sh", "".join(parts))


def _home(spec: Spec) -> str:
    return f'"${{MU_JAX_HOME:-/var/lib/mu_jax}}"/{spec.name}'


def _job(spec: Spec) -> str:
    """The job under a lock; a second one on the same host ends with a sentence."""
    return (
        f"code=0; flock --nonblock --conflict-exit-code {_BUSY} run.lock {join(worker(spec))} "
        f'|| code=$?; if [ "$code" -eq {_BUSY} ]; then echo "error: expected one run of '
        f'{spec.name} on a host, found another; wait for it, or take it down" >&2; fi; '
        'exit "$code"'
    )


_HEAD = """\
#!/bin/bash
# Prepares a host of {name}. Runs at every boot; what has been done is not done again.
set -eo pipefail
home={home}
mkdir -p "$home"
chmod 0777 "$home"
cd "$home"
exec > >(tee -a startup.log) 2>&1
rm -f failed

"""
_POWER_OFF = """\
trap 'shutdown -h now' EXIT
"""
_DEADLINE = """\
trap '[ "$?" -eq 0 ] || touch failed' EXIT

# The first boot sets when the hosts are deleted, whoever watches; every boot arms it again.
if [ ! -e deadline ]; then
  echo "$(($(date +%s) + {seconds}))" > deadline.partial
  mv deadline.partial deadline
fi
left=$(($(cat deadline) - $(date +%s)))
systemd-run --collect --on-active="$((left > 0 ? left : 1))s" {last}
"""
_SETUP = """
if [ ! -e ready ]; then
(
{lines}
)
touch ready
fi
"""
