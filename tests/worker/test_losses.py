"""Lost links: what is said of them, and which of them end a worker."""

from __future__ import annotations

from starcore.events import Finished, Log
from starcore.uplink import LinkState, Loss
from starcore.worker.losses import judge, uplink_of

SESSION = bytes(16)
ALERT = "SSLError: [SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] alert"


def test_only_the_first_of_many_losses_is_a_warning() -> None:
    uplink = uplink_of(SESSION)
    lost = judge(Loss(LinkState.UP, True, "cut"), uplink, reconnect=True)
    assert lost == Log("warning", "lost the manager: cut; trying to reach it again")
    uplink.again(0.0)
    absent = judge(Loss(LinkState.DIALLING, False, "nobody listens"), uplink, reconnect=True)
    assert absent == Log("debug", "no manager yet: nobody listens; trying until there is one")


def test_a_hopeless_refusal_is_the_end() -> None:
    loss = Loss(LinkState.UP, True, "version 9 is spoken here", 5)
    finished = Finished(5, "the manager refuses this worker: version 9 is spoken here")
    assert judge(loss, uplink_of(SESSION), reconnect=True) == finished


def test_an_alert_instead_of_the_first_welcome_is_a_refused_certificate() -> None:
    uplink = uplink_of(SESSION)
    loss = Loss(LinkState.GREETING, False, ALERT)
    assert judge(loss, uplink, reconnect=True) == Finished(3, ALERT)
    uplink.ever_up = True  # it was good a while ago, and may be so again
    assert isinstance(judge(loss, uplink, reconnect=True), Log)


def test_without_reconnection_the_first_loss_is_the_last() -> None:
    uplink = uplink_of(SESSION)
    for was_up, reason in ((True, "no manager any more: cut"), (False, "no manager: cut")):
        loss = Loss(LinkState.UP if was_up else LinkState.DIALLING, was_up, "cut")
        assert judge(loss, uplink, reconnect=False) == Finished(5, reason)
