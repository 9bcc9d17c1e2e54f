"""A tree over token ids, one root for each tenant: which nodes lie on a prompt's way, and how far
any path agrees with it.

Tokens are held and compared as bytes, four to a token, so that matching is a memory comparison.
Knows spans and snapshots only as what a node carries; what is given up is `eviction`'s.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from server.engine.ports import KVSpan, RecurrentSnapshot

TOKEN = 4  # bytes
# What a node costs beyond its tokens, span and snapshot: the object, its place in the parent and in
# the queues, the arrays' wrappers. Measured with tracemalloc, rounded up.
NODE_BYTES = 1024


def packed(tokens: Sequence[int]) -> bytes:
    """Token ids as bytes, `TOKEN` for each."""
    return array("I", tokens).tobytes()


class Node:
    """The tokens since the parent, their keys and values, and mostly the state at their end.

    `used`: when it last served, by the tree's owner's clock; `reused`: whether a later prompt
    continued from here; `lane` and `address` belong to eviction and to the disk.
    """

    __slots__ = (
        "address",
        "alive",
        "children",
        "end",
        "lane",
        "parent",
        "reused",
        "snapshot",
        "span",
        "tenant",
        "tokens",
        "used",
    )

    def __init__(
        self,
        tenant: str,
        parent: Node | None,
        tokens: bytes,
        span: KVSpan | None,
        snapshot: RecurrentSnapshot | None,
    ) -> None:
        self.tenant = tenant
        self.parent = parent
        self.tokens = tokens
        self.span = span
        self.snapshot = snapshot
        self.end: int = (parent.end if parent else 0) + len(tokens) // TOKEN
        self.children: dict[bytes, list[Node]] = {}
        self.used = 0
        self.lane: int | None = None
        self.reused = False
        self.alive = True
        self.address: bytes | None = None

    @property
    def nbytes(self) -> int:
        """Everything given up with this node: arrays and index."""
        held = NODE_BYTES + len(self.tokens)
        if self.span is not None:
            held += self.span.nbytes
        return held + (self.snapshot.nbytes if self.snapshot is not None else 0)

    def each_child(self) -> Iterator[Node]:
        for group in self.children.values():
            yield from group

    def only_child(self) -> Node | None:
        """The child, when there is exactly one."""
        if len(self.children) != 1:
            return None
        (group,) = self.children.values()
        return group[0] if len(group) == 1 else None

    def path(self) -> list[Node]:
        """From below the root to this node."""
        nodes: list[Node] = []
        node: Node = self
        while node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]


class PrefixTree:
    """Nodes end where someone may continue; a node's tokens are never cut, so siblings may begin
    alike. Nothing is shared between tenants."""

    def __init__(self) -> None:
        self._roots: dict[str, Node] = {}
        self.count = 0

    def root(self, tenant: str) -> Node:
        """The tenant's root, made where there is none; it stays only with a child below it."""
        found = self._roots.get(tenant)
        return Node(tenant, None, b"", None, None) if found is None else found

    def matching(self, tenant: str, data: bytes, limit: int) -> Iterator[Node]:
        """Every node whose whole path is a prefix of the first `limit` tokens of `data`."""
        stack = [self.root(tenant)]
        while stack:
            node = stack.pop()
            if node.end >= limit:
                continue
            at = node.end * TOKEN
            for child in node.children.get(data[at : at + TOKEN], ()):
                if child.end <= limit and data.startswith(child.tokens, at):
                    yield child
                    stack.append(child)

    def common(self, tenant: str, data: bytes) -> int:
        """Tokens of the longest prefix of `data` that is also a prefix of a path."""
        longest = 0
        stack = [self.root(tenant)]
        while stack:
            node = stack.pop()
            at = node.end * TOKEN
            for child in node.children.get(data[at : at + TOKEN], ()):
                if data.startswith(child.tokens, at):
                    longest = max(longest, child.end)
                    stack.append(child)
                    continue
                # Only what agrees beyond the longest so far is worth measuring.
                beyond = (longest + 1) * TOKEN - at
                if beyond <= len(child.tokens) and data.startswith(child.tokens[:beyond], at):
                    longest = node.end + _agreement(data, at, child.tokens)
        return longest

    def attach(
        self,
        parent: Node,
        tokens: bytes,
        span: KVSpan | None,
        snapshot: RecurrentSnapshot | None,
    ) -> Node:
        """A new leaf below `parent`."""
        node = Node(parent.tenant, parent, tokens, span, snapshot)
        # A sole continuation of what was continued before is the same conversation going on.
        node.reused = parent.reused and not parent.children
        parent.children.setdefault(tokens[:TOKEN], []).append(node)
        if parent.parent is None:
            self._roots[parent.tenant] = parent
        self.count += 1
        return node

    def detach(self, leaf: Node) -> None:
        """Takes a leaf out."""
        parent = leaf.parent
        if parent is None or leaf.children:
            raise ValueError("only a leaf can be taken out")
        group = parent.children[leaf.tokens[:TOKEN]]
        group.remove(leaf)
        if not group:
            del parent.children[leaf.tokens[:TOKEN]]
        if parent.parent is None and not parent.children:
            del self._roots[parent.tenant]
        leaf.alive = False
        self.count -= 1

    def clear(self) -> None:
        """Takes everything out."""
        for node in self.nodes():
            node.alive = False
        self._roots.clear()
        self.count = 0

    def nodes(self) -> Iterator[Node]:
        """Every node, parents first."""
        stack = list(self._roots.values())
        while stack:
            children = list(stack.pop().each_child())
            yield from children
            stack += children


def _agreement(data: bytes, at: int, tokens: bytes) -> int:
    """How many first tokens of `tokens` stand in `data` from byte `at`; fewer than all of them."""
    low, high = 0, len(tokens) // TOKEN
    while high - low > 1:
        middle = (low + high) // 2
        if data.startswith(tokens[: middle * TOKEN], at):
            low = middle
        else:
            high = middle
    return low
