"""Sums of masked vectors: equal to the plain sum bit for bit whoever leaves, or not opened at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, combinations

import numpy as np
import pytest
import torch

from fedsim.core.errors import QuorumError, SecurityError
from fedsim.secagg import PROTOCOLS, primitives
from fedsim.secagg.bank import Bank
from fedsim.secagg.graph import is_connected, neighbourhoods
from fedsim.secagg.ring import from_ring, unpack
from fedsim.secagg.wire import Roster, read_table, table
from tests.secagg.parties import COUNT, RING_BITS, Round, codes, server


def subsets(banks: Iterable[int]) -> Iterator[tuple[int, ...]]:
    banks = list(banks)
    return chain.from_iterable(combinations(banks, size) for size in range(len(banks) + 1))


@pytest.mark.parametrize("num_banks", [3, 4, 5, 6])
def test_every_subset_of_banks_gives_its_plain_sum_or_nothing(num_banks: int) -> None:
    values, made = codes(num_banks), server(num_banks)
    least = {3: 2, 4: 3, 5: 4, 6: 4}[num_banks]
    played, opened = Round(made, range(num_banks)), 0
    for arrived in subsets(range(num_banks)):
        if len(arrived) < least:
            with pytest.raises(QuorumError, match=f"{len(arrived)} of {num_banks} banks are present and {least} are"):
                played.finish(values, arrived, arrived)
        else:
            assert torch.equal(played.finish(values, arrived, arrived), values[list(arrived)].sum(0))
            opened += 1
    assert opened == sum(1 for arrived in subsets(range(num_banks)) if len(arrived) >= least)


def test_banks_may_leave_between_any_two_steps() -> None:
    """All nested (shared, masked, revealed) of four banks of which three are needed."""
    values, opened = codes(4), 0
    for shared in subsets(range(4)):
        for arrived in subsets(shared):
            for revealing in subsets(arrived):
                if len(revealing) >= 3:
                    total = Round(server(4), shared).finish(values, arrived, revealing)
                    assert torch.equal(total, values[list(arrived)].sum(0))
                    opened += 1
                elif len(arrived) >= 3 and len(revealing) == 2:
                    with pytest.raises(QuorumError, match="2 of"):
                        Round(server(4), shared).finish(values, arrived, revealing)
    assert opened == (1 + 4) + 4 + 4  # four shared and sent; four shared, three sent; three shared and sent


@pytest.mark.parametrize("degree", [2, 4, 6])
def test_a_sparse_graph_gives_the_plain_sum_or_nothing(degree: int) -> None:
    """Nine banks: every loss of up to three of them."""
    values, made, opened = codes(9), server(9, "secagg_plus", neighbours=degree), 0
    played = Round(made, range(9))
    for gone in chain.from_iterable(combinations(range(9), size) for size in range(4)):
        arrived = [bank for bank in range(9) if bank not in gone]
        around = [(made.graph[bank] | {bank}) & set(arrived) for bank in range(9)]
        enough = all(len(near) >= needed for near, needed in zip(around, made.thresholds, strict=True))
        if enough and is_connected(made.graph, arrived):
            assert torch.equal(played.finish(values, arrived, arrived), values[arrived].sum(0))
            opened += 1
        else:
            with pytest.raises(QuorumError, match="nothing was opened"):
                played.finish(values, arrived, arrived)
    assert opened > {2: 9, 4: 9, 6: 45}[degree]


def test_what_a_bank_sends_is_uniform_whatever_it_holds() -> None:
    """Chi-square of 60 000 elements over 16 classes at either end of the bits; 37.7 is the 0.1 % point."""
    count, played = 60_000, Round(server(3), range(3))
    for values in (torch.zeros(count, dtype=torch.int64), torch.full((count,), 30000)):
        elements = unpack(played.mask(1, values), RING_BITS, count)
        for part in (elements >> np.uint64(RING_BITS - 4), elements & np.uint64(15)):
            found = np.bincount(part.astype(np.int64), minlength=16)
            assert float(((found - count / 16) ** 2 / (count / 16)).sum()) < 37.7
    assert int(elements.max()) == 2**RING_BITS - 1 or int(elements.max()) > 2**RING_BITS - 200  # the top is drawn too


def test_without_shares_a_masked_vector_keeps_its_masks() -> None:
    """Neither the pair masks alone nor the self mask alone give the vector away."""
    values, played = codes(3), Round(server(3), range(3))
    elements = unpack(played.mask(0, values[0]), RING_BITS, COUNT)
    own = primitives.mask(played.banks[0]._self_seed, COUNT, RING_BITS)
    assert not torch.equal(from_ring(elements, RING_BITS), values[0])
    assert not torch.equal(from_ring(elements - own, RING_BITS), values[0])


def test_one_share_of_a_bank_and_never_both() -> None:
    played = Round(server(4), range(4))
    present = played.server.present(frozenset({0, 1, 2}))
    bank, arguments = played.banks[0], (played.rosters[0], played.mail[0])
    revealed = read_table(bank.reveal(*arguments, present[0]), 33)
    of_seed, of_key = played.banks[3]._shares(_roster(played, 3))
    assert revealed[3] == of_key[0]
    of_seed, of_key = played.banks[1]._shares(_roster(played, 1))
    assert revealed[1] == of_seed[0]
    assert bank.reveal(*arguments, present[0]) == table(revealed)  # asked again: the same answer
    with pytest.raises(SecurityError, match="two sets of present banks"):
        bank.reveal(*arguments, table(dict.fromkeys([0, 1, 3], b"")))


def _roster(played: Round, bank: int) -> Roster:
    return Roster.from_bytes(played.rosters[bank])


def test_a_bank_refuses_to_reveal_below_its_threshold() -> None:
    played = Round(server(4), range(4))
    with pytest.raises(QuorumError, match="2 of 4 banks are present and 3 are needed"):
        played.banks[0].reveal(played.rosters[0], played.mail[0], table({0: b"", 1: b""}))


def test_altered_mail_is_found() -> None:
    played = Round(server(4), range(4))
    mail = bytearray(played.mail[0])
    mail[10] ^= 1
    present = played.server.present(frozenset(range(4)))
    with pytest.raises(SecurityError, match="the share that bank 1 sealed for bank 0 was altered"):
        played.banks[0].reveal(played.rosters[0], bytes(mail), present[0])


def test_a_wrong_share_of_a_key_is_found() -> None:
    values, played = codes(4), Round(server(4), range(4))
    masked = {bank: played.mask(bank, values[bank]) for bank in range(3)}
    present = played.server.present(frozenset(range(3)))
    revealed = {
        bank: played.banks[bank].reveal(played.rosters[bank], played.mail[bank], present[bank]) for bank in range(3)
    }
    shares = read_table(revealed[0], 33)
    revealed[0] = table({**shares, 3: bytes(33)})
    with pytest.raises(SecurityError, match="the shares of bank 3 do not give its key"):
        played.server.open(masked, revealed, COUNT)


def test_bytes_are_those_of_the_messages() -> None:
    """Twelve banks of which one leaves: keys 64, shares 11 (2 + 82), vector 20 bits a value, reveals 12 (2 + 33)."""
    played = Round(server(12), range(12))
    played.finish(codes(12), range(11), range(11))
    assert len(played.banks[0].keys()) == 64
    assert played.sent == {
        "roster": 5 + 11 * (2 + 64),
        "shares": 12 * 11 * (2 + 82),
        "masked": 11 * ((COUNT * 20 + 7) // 8),
        "reveal": 11 * 12 * (2 + 33),
    }


def test_a_bank_is_the_same_wherever_it_is_played() -> None:
    one, other = Bank(bytes(range(32))), Bank(bytes(range(32)))
    assert one.keys() == other.keys()
    assert one.keys() != Bank(bytes(32)).keys()


@pytest.mark.parametrize(("num_banks", "degree"), [(10, 2), (10, 4), (11, 6), (50, 8)])
def test_the_graph_is_regular_mutual_and_connected_after_any_small_loss(num_banks: int, degree: int) -> None:
    graph = neighbourhoods(num_banks, degree, np.random.default_rng(5))
    assert all(len(around) == degree and bank not in around for bank, around in enumerate(graph))
    assert all(bank in graph[other] for bank, around in enumerate(graph) for other in around)
    if num_banks <= 11:
        for gone in combinations(range(num_banks), degree - 1):
            assert is_connected(graph, set(range(num_banks)) - set(gone))
    assert graph != neighbourhoods(num_banks, degree, np.random.default_rng(6))


def test_parts_that_share_no_mask_are_not_opened() -> None:
    made = server(8, "secagg_plus", neighbours=2, threshold=0.51)
    at = 0
    ring = [at]
    while len(ring) < 8:
        at = next(iter(sorted(made.graph[at] - set(ring))))
        ring.append(at)
    arrived = frozenset(ring) - {ring[0], ring[4]}
    with pytest.raises(QuorumError, match="no longer share masks"):
        made.present(arrived)


def test_shares_of_two_thirds_do_not_depend_on_floats() -> None:
    protocol = PROTOCOLS.create("secagg", {})
    assert [protocol.least(banks) for banks in (3, 4, 5, 6, 9, 12, 30)] == [2, 3, 4, 4, 6, 8, 20]
