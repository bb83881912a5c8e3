"""What runs elsewhere on our behalf: only code that was pinned, with rights that a fork does not get."""

import re
from pathlib import Path

import pytest
import yaml

WORKFLOWS = sorted((Path(__file__).resolve().parents[1] / ".github" / "workflows").glob("*.yml"))
each = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)


@each
def test_actions_are_pinned_by_commit(path: Path) -> None:
    used = re.findall(r"uses:\s*(.*)", path.read_text(encoding="utf-8"))
    assert used
    assert [line for line in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)*", line)] == []


def test_an_action_has_one_pin() -> None:
    used = {line for path in WORKFLOWS for line in re.findall(r"uses:\s*(.*)", path.read_text(encoding="utf-8"))}
    names = [line.partition("@")[0] for line in used]
    assert sorted(names) == sorted(set(names))


@each
def test_a_fork_gets_no_rights_and_no_secrets(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    starts = content[True]  # what YAML makes of the word on
    assert "pull_request_target" not in starts and "workflow_run" not in starts, "those run a stranger's code with ours"
    assert "secrets." not in text
    assert content["permissions"] == {"contents": "read"}
    for job in content["jobs"].values():
        if "write" in job.get("permissions", {}).values():
            needed = [job, *(content["jobs"][name] for name in [job["needs"]])]
            assert any("!github.event.repository.fork" in each.get("if", "") for each in needed)
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), "a value goes through the environment, never into a command"
    if "schedule" in starts:
        first = [job for job in content["jobs"].values() if "needs" not in job]
        assert all("!github.event.repository.fork" in job["if"] for job in first)


def test_known_vulnerabilities_are_looked_for_every_week() -> None:
    (canary,) = [path for path in WORKFLOWS if path.stem == "canary"]
    content = yaml.safe_load(canary.read_text(encoding="utf-8"))
    assert "schedule" in content[True]
    commands = [step.get("run", "") for step in content["jobs"]["audit"]["steps"]]
    assert any("pip_audit" in command for command in commands)
    assert "env" not in content["jobs"]["audit"], "the versions that a reader gets, not the newest of all"
