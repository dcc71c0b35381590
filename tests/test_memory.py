"""Free memory by the limits of control groups of both versions, on trees like those of machines."""

import pytest

from edge_agent.memory import free_bytes, release_code

MIB = 2**20
UNBOUND = 9_223_372_036_854_771_712  # what version 1 says for none
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
HYBRID = V1 + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


@pytest.fixture
def machine(tmp_path):
    """A tree with 1 GiB available and no control groups, to be filled."""

    def put(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(text))
        return tmp_path

    put({"proc/meminfo": "MemTotal: 2097152 kB\nMemAvailable:    1048576 kB\n"})
    return put


def group_v2(folder, *, most="max", high="max", used=0, idle=0):
    return {
        f"{folder}/memory.max": f"{most}\n",
        f"{folder}/memory.high": f"{high}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": f"anon 5\nactive_file 77\ninactive_file {idle}\n",
    }


def group_v1(folder, *, most=UNBOUND, used=0, idle=0):
    return {
        f"{folder}/memory.limit_in_bytes": f"{most}\n",
        f"{folder}/memory.usage_in_bytes": f"{used}\n",
        f"{folder}/memory.stat": f"inactive_file 1\ntotal_inactive_file {idle}\n",
    }


def test_without_groups_it_is_what_the_machine_has(machine):
    assert free_bytes(machine({})) == 1024 * MIB


def test_without_anything_it_is_unknown(tmp_path):
    assert free_bytes(tmp_path) is None


def test_max_is_no_limit_and_files_that_are_idle_are_free(machine):
    at = "sys/fs/cgroup/edge"
    root = machine(
        {
            "proc/self/mountinfo": V2,
            "proc/self/cgroup": "0::/edge\n",
            **group_v2(at, used=900 * MIB),
        }
    )
    assert free_bytes(root) == 1024 * MIB
    machine(group_v2(at, most=512 * MIB, used=500 * MIB, idle=400 * MIB))
    assert free_bytes(root) == 412 * MIB
    machine(group_v2(at, most=512 * MIB, high=200 * MIB, used=150 * MIB))
    assert free_bytes(root) == 50 * MIB


def test_the_narrowest_of_nested_groups_counts(machine):
    root = machine(
        {
            "proc/self/mountinfo": V2,
            "proc/self/cgroup": "0::/system.slice/edge.service\n",
            **group_v2("sys/fs/cgroup/system.slice", most=300 * MIB, used=250 * MIB),
            **group_v2("sys/fs/cgroup/system.slice/edge.service", most=512 * MIB, used=100 * MIB),
        }
    )
    assert free_bytes(root) == 50 * MIB


def test_a_group_beyond_its_limit_leaves_nothing(machine):
    root = machine(
        {
            "proc/self/mountinfo": V2,
            "proc/self/cgroup": "0::/edge\n",
            **group_v2("sys/fs/cgroup/edge", most=64 * MIB, used=65 * MIB),
        }
    )
    assert free_bytes(root) == 0


@pytest.mark.parametrize("mounts", [V1, HYBRID], ids=["version 1", "hybrid"])
def test_version_1_and_a_hybrid_with_memory_in_version_1(machine, mounts):
    root = machine(
        {
            "proc/self/mountinfo": mounts,
            "proc/self/cgroup": "9:name=systemd:/\n4:memory:/a/edge\n2:cpu,cpuacct:/b\n0::/c\n",
            **group_v1("sys/fs/cgroup/memory", used=800 * MIB),
            **group_v1("sys/fs/cgroup/memory/a", most=600 * MIB, used=200 * MIB),
            **group_v1("sys/fs/cgroup/memory/a/edge", most=512 * MIB, used=500 * MIB, idle=MIB),
        }
    )
    assert free_bytes(root) == 13 * MIB


def test_a_hybrid_with_memory_in_version_2(machine):
    root = machine(
        {
            "proc/self/mountinfo": HYBRID.removeprefix(V1),
            "proc/self/cgroup": "3:cpu:/\n0::/edge\n",
            **group_v2("sys/fs/cgroup/unified/edge", most=100 * MIB, used=60 * MIB),
        }
    )
    assert free_bytes(root) == 40 * MIB


@pytest.mark.parametrize("path", ["/docker/f00", "/", "/../../other"])
def test_in_a_container_the_mounted_folder_may_be_the_group_itself(machine, path):
    root = machine(
        {
            "proc/self/mountinfo": V1.replace(" / ", " /docker/f00 ", 1),
            "proc/self/cgroup": f"4:memory:{path}\n",
            **group_v1("sys/fs/cgroup/memory", most=128 * MIB, used=28 * MIB),
        }
    )
    assert free_bytes(root) == 100 * MIB


def test_this_machine_has_memory():
    assert free_bytes() > MIB


def test_code_that_is_let_go_comes_back_when_it_is_run():
    assert release_code() > MIB
    assert sum(range(1000)) == 499_500
