"""What is measured: payloads, message counts, and the table of workloads."""

from __future__ import annotations

import base64
import random
from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "arraybuffer", "base64"]
"""The `type` of a message on the wire between host and plugin."""


@dataclass(frozen=True)
class Workload:
    """One kind of work, the same for every plugin."""

    name: str
    measure: Literal["start", "flood", "echo", "round-trip"]
    kind: Kind = "text"
    size: int = 100
    """The payload of one WebSocket message, in bytes."""
    count: int = 1
    """Messages in one measurement, after a tenth as many to warm up."""
    plotted: tuple[str, ...] = ("cpu",)
    """The metrics that the plot shows; the table shows all."""
    record: str = ""
    """What a text repeats; :data:`RECORD` if nothing else is said."""

    def payload(self) -> bytes:
        """The payload of every message: the same `size` bytes in every run.

        Text is what applications send most, JSON, whose quotes a plugin has to escape. Binary is
        random, since a regular pattern would flatter those whose branches it makes predictable.
        """
        if self.kind == "text":
            record = (self.record or RECORD).encode()
            text = (record * (self.size // len(record) + 1))[: self.size]
            # No half a character at the end.
            return text.decode(errors="ignore").encode().ljust(self.size)
        return random.Random(6455).randbytes(self.size)

    def message(self) -> dict[str, str | list[int]]:
        """The same payload as `type` and `data` of a JSON line."""
        payload = self.payload()
        if self.kind == "text":
            return {"type": self.kind, "data": payload.decode()}
        if self.kind == "arraybuffer":
            return {"type": self.kind, "data": list(payload)}
        return {"type": self.kind, "data": base64.b64encode(payload).decode()}


RECORD = '{"seq": 1048576, "kind": "update", "body": "a line of text as chats and feeds send it"}\n'
CHINESE = "我们在会议室里讨论了新版本的计划，大家都同意下周开始测试。"  # noqa: RUF001 - as people write it
CHINESE_JSON = '{"序号": 1048576, "类型": "更新", "正文": "聊天和动态里常见的一行文字"}\n'

# Counts for half a second of work in the slower plugins: long enough for their compilers to have
# warmed up and for noise to even out, short enough for many rounds.
WORKLOADS = (
    Workload("start", "start", plotted=("wall", "memory")),
    Workload("flood-text-100", "flood", "text", 100, 100_000),
    Workload("flood-text-64k", "flood", "text", 65536, 2_000, ("cpu", "peak")),
    Workload("flood-chinese-100", "flood", "text", 100, 100_000, record=CHINESE),
    Workload("flood-chinese-64k", "flood", "text", 65536, 2_000, record=CHINESE),
    Workload("flood-chinese-json-100", "flood", "text", 100, 100_000, record=CHINESE_JSON),
    Workload("flood-chinese-json-64k", "flood", "text", 65536, 2_000, record=CHINESE_JSON),
    Workload("flood-array-1k", "flood", "arraybuffer", 1024, 8_000),
    Workload("flood-array-64k", "flood", "arraybuffer", 65536, 400, ("cpu", "peak")),
    Workload("flood-base64-1k", "flood", "base64", 1024, 40_000),
    Workload("flood-base64-64k", "flood", "base64", 65536, 2_000),
    Workload("echo-text-100", "echo", "text", 100, 20_000),
    Workload("echo-array-1k", "echo", "arraybuffer", 1024, 4_000),
    Workload("round-trip", "round-trip", "text", 100, 2_000, ("p50", "p99")),
)
