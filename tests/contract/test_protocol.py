"""docs/protocol.md and the code say the same, and the page is enough to write a client."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpc.agent import mailbox
from hpc.router import desk, replies
from hpc.wire import client, codec, discovery, inbox, messages
from tests.integration.router_support import RouterProcess, make_run, wait_until

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "protocol.md").read_text(encoding="utf-8")

AGENT_MESSAGES = [
    messages.Hello,
    messages.Alert,
    messages.Guidance,
    messages.Ack,
    messages.Progress,
    messages.Bye,
    messages.Reject,
]
INBOX_MESSAGES = [
    inbox.ListAlerts,
    inbox.ListEpisodes,
    inbox.ShowAlert,
    inbox.SendReply,
    inbox.ClaimAlert,
    inbox.ReleaseAlert,
    inbox.ResolveAlert,
    inbox.StopRouter,
    inbox.Answer,
]
PARTS = [messages.StepBrief, desk.AlertCard, desk.EpisodeCard, desk.GuidanceCard]


def tables(page: str) -> dict[str, list[list[str]]]:
    """Heading -> rows of the field table right below it (empty where there is none)."""
    found: dict[str, list[list[str]]] = {}
    for section in re.split(r"^#{2,3} ", page, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        rows: list[list[str]] = []
        for line in body.splitlines():
            if line.startswith("| `"):
                rows.append([cell.strip() for cell in line.strip("|").split("|")])
            elif rows:
                break
        found[heading.strip()] = rows
    return found


TABLES = tables(PAGE)
GOLDEN = json.loads(Path(__file__).with_name("protocol_golden.json").read_text(encoding="utf-8"))


def word(kind: msgspec.inspect.Type) -> str:
    """A type as the page writes it."""
    match kind:
        case msgspec.inspect.StrType():
            return "string"
        case msgspec.inspect.IntType():
            return "integer"
        case msgspec.inspect.FloatType():
            return "number"
        case msgspec.inspect.BoolType():
            return "boolean"
        case msgspec.inspect.NoneType():
            return "nil"
        case msgspec.inspect.DictType():
            return "map"
        case msgspec.inspect.StructType(cls=cls):
            return cls.__name__
        case msgspec.inspect.ListType(item_type=item):
            return f"list of {word(item)}"
        case msgspec.inspect.LiteralType(values=values):
            return " or ".join(f"`{value}`" for value in values)
        case msgspec.inspect.UnionType(types=types):
            return " or ".join(sorted((word(part) for part in types), key=lambda name: name == "nil"))
    raise AssertionError(f"the page has no word for {kind}")


def default(field: msgspec.inspect.Field) -> str:
    """A default as the page writes it."""
    if field.default_factory is not msgspec.NODEFAULT:
        return f"`{json.dumps(field.default_factory())}`"
    if field.default is msgspec.NODEFAULT:
        return ""
    return "`nil`" if field.default is None else f"`{json.dumps(field.default)}`"


def documented(heading: str) -> dict[str, tuple[str, ...]]:
    return {row[0].strip("`"): tuple(row[1:-1]) for row in TABLES[heading]}


def options(text: str) -> set[str]:
    return set(text.split(" or "))


def check(heading: str, fields: list[msgspec.inspect.Field], *, defaults: bool = True) -> None:
    page = documented(heading)
    assert list(page) == [field.encode_name for field in fields], f"fields of {heading}"
    for field in fields:
        type_word, *default_word = page[field.encode_name]
        assert options(type_word) == options(word(field.type)), f"type of {heading}.{field.encode_name}"
        if defaults:
            assert default_word == [default(field)], f"default of {heading}.{field.encode_name}"


def own_fields(struct: type[msgspec.Struct]) -> list[msgspec.inspect.Field]:
    info = msgspec.inspect.type_info(struct)
    assert isinstance(info, msgspec.inspect.StructType)
    envelope = {"id", "sent_at", "v"} if issubclass(struct, messages.Envelope) else set()
    return [field for field in info.fields if field.name not in envelope]


@pytest.mark.parametrize("struct", [*AGENT_MESSAGES, *INBOX_MESSAGES, *PARTS], ids=lambda struct: struct.__name__)
def test_every_field_is_documented_with_its_type_and_default(struct: type[msgspec.Struct]) -> None:
    check(struct.__name__, own_fields(struct))


def test_the_discovery_file_is_documented() -> None:
    check("File router.json", own_fields(discovery.RouterInfo), defaults=False)


def test_the_envelope_is_documented() -> None:
    info = msgspec.inspect.type_info(messages.Envelope)
    assert isinstance(info, msgspec.inspect.StructType)
    page = documented("Envelope")
    assert page.pop("type") == ("string", "")
    assert page == {field.name: (word(field.type), default(field)) for field in info.fields}


def test_no_message_is_missing_from_the_page_or_this_test() -> None:
    assert set(codec.Message.__args__) == set(AGENT_MESSAGES)
    assert {*inbox.Request.__args__, inbox.Answer} == set(INBOX_MESSAGES)
    known = {struct.__name__ for struct in [*AGENT_MESSAGES, *INBOX_MESSAGES, *PARTS]}
    assert {heading for heading, rows in TABLES.items() if rows} - {"Envelope", "File router.json"} <= known


@pytest.mark.parametrize("struct", [*AGENT_MESSAGES, *INBOX_MESSAGES], ids=lambda struct: struct.__name__)
def test_the_type_is_the_name_in_lower_case(struct: type[msgspec.Struct]) -> None:
    assert struct.__struct_config__.tag == struct.__name__.lower()
    assert struct.__struct_config__.tag_field == "type"


def test_limits_and_times_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| ([^|`]+) \| ([\d.]+) \| (?:bytes|characters|seconds) \|$", PAGE, flags=re.MULTILINE)
    assert {name: float(value) for name, value in rows} == {
        "message": messages.MAX_MESSAGE,
        "answer (inbox socket)": inbox.MAX_ANSWER,
        "reply text": replies.MAX_REPLY,
        "heartbeat age after which a router is dead": discovery.STALE_SECONDS,
        "look for another router while connected": client.CHECK_SECONDS,
        "repeat an unanswered Hello": client.HELLO_SECONDS,
        "repeat an answered Hello": client.BEAT_SECONDS,
        "silence after which to connect anew": client.SILENCE_SECONDS,
        "first repetition of an unacknowledged message": mailbox.FIRST_RESEND_SECONDS,
        "longest pause between repetitions": mailbox.LAST_RESEND_SECONDS,
        "shortest pause between Progress messages": mailbox.PROGRESS_SECONDS,
    }
    assert f"| look for `router.json` while unconnected | {client.SEEK_SECONDS:g} | seconds |" in PAGE
    assert f"version {messages.PROTOCOL_VERSION}" in PAGE.splitlines()[0]


@pytest.mark.parametrize("column", ["status", "code"])
def test_statuses_and_codes_are_explained(column: str) -> None:
    struct: Any = {"status": messages.Ack, "code": messages.Reject}[column]
    kind = next(field.type for field in own_fields(struct) if field.name == column)
    section = PAGE.split(f"| {column} | ")[1].split("\n\n")[0]
    explained = re.findall(r"^\| (\w+) \|", section, flags=re.MULTILINE)
    assert set(explained) == set(kind.values)


@pytest.mark.parametrize("struct", [*AGENT_MESSAGES, *INBOX_MESSAGES], ids=lambda struct: struct.__name__)
def test_golden_bytes(struct: Any) -> None:
    """The bytes on the wire never change unnoticed: stored agents and routers of other versions read them."""
    golden = GOLDEN[struct.__name__]
    frame = bytes.fromhex(golden["bytes"])
    assert msgspec.msgpack.decode(frame) == golden["fields"]
    message = msgspec.convert(golden["fields"], struct)
    assert codec.encode(message) == frame
    reader: codec.Codec[Any] = codec.Codec(struct)
    assert reader.decode(frame) == message


def test_frames_from_before_the_newer_fields_still_mean_the_same() -> None:
    """Fields were added within version 1; who does not send them means their defaults."""
    later = {"Guidance": ("valid_until_step", "valid_until", "replaces")}
    later["SendReply"] = later["Guidance"]
    for name, fields in later.items():
        earlier = {key: value for key, value in GOLDEN[name]["fields"].items() if key not in fields}
        message = codec.Codec[Any](getattr(messages, name, None) or getattr(inbox, name)).decode(
            msgspec.msgpack.encode(earlier)
        )
        assert {field: getattr(message, field) for field in fields} == dict.fromkeys(fields)


def test_a_stranger_with_the_page_alone_holds_a_whole_conversation(tmp_path: Path) -> None:
    script = Path(__file__).with_name("protocol_client.py")
    source = script.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 80
    assert not re.search(r"^\s*(from|import) (hpc|jobs|tests)", source, flags=re.MULTILINE)
    run = make_run(tmp_path / "demo")
    episode = "demo-00003"
    with (
        RouterProcess(run) as router,
        subprocess.Popen(
            [sys.executable, "-P", str(script), str(run.root), episode], cwd=tmp_path, stdout=subprocess.PIPE, text=True
        ) as stranger,
        router.inbox() as people,
    ):
        alert = wait_until(lambda: people.alerts())[0]
        assert (alert.episode, alert.reason, alert.step) == (episode, "stuck", 7)
        assert people.reply(alert.alert, "turn left", annotator="ada")[0] == "accepted"
        output, _ = stranger.communicate(timeout=90)
        assert stranger.returncode == 0
        found = people.alert(alert.alert)
        assert people.episodes()[0].state == "finished"
    assert json.loads(output) == {
        "text": "turn left",
        "alert": alert.alert,
        "heard": ["ready", "stored", "stored", "stored"],
    }
    assert found is not None
    assert [(reply.state, reply.applied_step) for reply in found[1]] == [("applied", 8)]
