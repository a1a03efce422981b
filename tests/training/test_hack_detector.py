"""When a signal counts as hacked, and when the detector says so."""

import pytest

from metarlgym import ConfigError
from metarlgym.training.hack_detector import HackDetector, Measure, verdicts

LOSS = {"true_loss": Measure("low", 0.01, relative=True)}


def run(signals, losses, **changes):
    detector = HackDetector(LOSS, **{"patience": 2, **changes})
    alarms = [
        detector.check(10 * i, signal, {"true_loss": loss})
        for i, (signal, loss) in enumerate(zip(signals, losses, strict=True))
    ]
    return detector, alarms


def test_alarm_when_the_signal_improves_and_the_truth_worsens():
    detector, alarms = run([0.5, 0.6, 0.7, 0.8, 0.9], [2.0, 1.9, 1.95, 2.0, 2.1])
    # Best is 1.9: at 1.95 it is worse by more than 1%, and at the second such check running there is an alarm.
    assert alarms == [False, False, False, True, True]
    assert detector.alarm_step == 30 and detector.reasons == ["true_loss"]


@pytest.mark.parametrize(
    ("signals", "losses"),
    [
        ([0.5, 0.6, 0.7, 0.8], [2.0, 1.9, 1.8, 1.7]),  # both improve
        ([0.5, 0.4, 0.3, 0.2], [2.0, 2.1, 2.2, 2.3]),  # both worsen: bad, but no hack
        ([0.5, 0.6, 0.7, 0.8], [2.0, 2.01, 2.0, 2.01]),  # within the margin
        ([0.5, 0.6, 0.7, 0.8], [2.0, 2.1, 2.0, 2.1]),  # never twice running
    ],
)
def test_no_false_alarm(signals, losses):
    assert run(signals, losses)[0].alarm_step is None


def test_losses_improve_downwards():
    assert run([2.0, 1.5, 1.0, 0.5], [2.0, 2.1, 2.2, 2.3], better="low")[0].alarm_step == 20
    assert run([2.0, 1.5, 1.0, 0.5], [2.0, 2.1, 2.2, 2.3], better="high")[0].alarm_step is None


def test_near_is_worse_on_both_sides():
    measure = Measure("near", 0.1, target=1.0)
    assert measure.badness(1.3) == pytest.approx(measure.badness(0.7)) == pytest.approx(0.3)
    assert measure.is_worse(0.8, best=0.05) and not measure.is_worse(0.9, best=0.05)


def test_after_a_reset_it_counts_anew_and_keeps_the_first_alarm():
    detector, _ = run([0.5, 0.6, 0.7], [2.0, 2.1, 2.2])
    assert detector.alarm_step == 20
    detector.reset()
    assert not detector.check(30, 0.5, {"true_loss": 3.0})
    assert detector.alarm_step == 20


def lines(signal, truth, signal0=None):
    signal0 = signal if signal0 is None else signal0
    return [
        {"step": 5 * i, "signal": s, "signal0": s0, "signal_se": 0.001, "true_loss": t}
        for i, (s, s0, t) in enumerate(zip(signal, signal0, truth, strict=True))
    ]


def test_verdicts_of_scores():
    found = verdicts(lines([0.6, 0.7, 0.92, 0.95], [2.0, 2.11, 2.05, 2.2], [0.6, 0.6, 0.61, 0.6]), "score")
    assert found == {"hack_step": 15, "critic_side_step": 5, "data_side_step": 5}
    # A score of .9 without harm, or harm without it, is no hack.
    assert verdicts(lines([0.6, 0.95], [2.0, 2.0]), "score")["hack_step"] is None
    assert verdicts(lines([0.6, 0.8], [2.0, 3.0]), "score")["hack_step"] is None
    # Where the critic never changes, its score at the start is its score.
    assert verdicts(lines([0.6, 0.95], [2.0, 3.0]), "score")["critic_side_step"] is None


def test_verdicts_of_gains():
    """A gain has no .9 to reach: it is hacked as soon as it has risen and the truth is worse."""
    found = verdicts(lines([-0.1, 0.05, 0.05], [2.0, 2.0, 2.2], [-0.1, 0.05, -0.1]), "gain")
    assert found == {"hack_step": 10, "critic_side_step": 10, "data_side_step": 10}
    assert verdicts(lines([-0.1, -0.1], [2.0, 2.2]), "gain")["hack_step"] is None


def test_verdicts_of_losses():
    found = verdicts(lines([2.0, 1.4, 0.9], [2.0, 2.0, 2.1], [2.0, 1.9, 1.8]), "target")
    assert found == {"hack_step": 10, "critic_side_step": 5, "data_side_step": 10}


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Measure("up", 0.1), "better='up'"),
        (lambda: Measure("low", -1), "margin=-1"),
        (lambda: HackDetector(LOSS, patience=0), "patience=0"),
        (lambda: HackDetector(LOSS, better="up"), "better='up'"),
    ],
)
def test_bad_settings(make, told):
    with pytest.raises(ConfigError, match=told):
        make()
