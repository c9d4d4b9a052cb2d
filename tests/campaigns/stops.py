"""Trials of stages that are stopped: by signals, by others that work in the same folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import toy
from toy import ROOT, STAGES, Result, ask, copy_of, facts, hidden, run
from trials import Campaign, Tally


def stops(campaign: Campaign, what: str, number: int, sent: int) -> Tally:
    """Stages stopped by a signal: half of them at a random moment, half at a change of a file."""
    tally, random = Tally(what), campaign.random(what)
    right = {signal.SIGTERM: 143, signal.SIGINT: 130}.get(sent, -sent)
    for k in campaign.times(number):
        if campaign.late():
            break
        script = list(STAGES)[k % len(STAGES)]
        _, reference = campaign.undisturbed(script)
        models_dir = copy_of(campaign.old, campaign.folder / "stopped")
        if k // len(STAGES) % 2:
            moment = float(random.uniform(0, reference.seconds))
            done = run(*ask(script, models_dir, "--seed", 8), kill=(sent, moment))
            about = f"{script}, signal {sent} after {moment:.2f} s of CPU"
        else:
            place = int(random.integers(2 * reference.events))
            done = run(*ask(script, models_dir, "--seed", 8), event=(sent, place))
            about = f"{script}, signal {sent} at change {place / 2:.1f}"
        faults = [done.fault]
        if done.code not in (0, right) and not done.fault:
            faults.append("silent")  # it ended without our line
        whole = campaign.check_whole(script, models_dir)
        faults += ["lost"] * bool(whole)
        again_faults, again = campaign.check_rerun(script, models_dir)
        said = f"{whole} {done.out}{done.err} AGAIN {again.out}{again.err}"
        end = "ended before" if done.code == 0 else "stopped"
        tally.add(about, end, *dict.fromkeys([*faults, *again_faults]), said=said)
    return tally


def kills(campaign: Campaign) -> Iterator[Tally]:
    """SIGKILL."""
    yield stops(campaign, "SIGKILL, five stages", 100, signal.SIGKILL)


def signals(campaign: Campaign) -> Iterator[Tally]:
    """SIGTERM, and Ctrl-C, also while packages are imported."""
    yield stops(campaign, "SIGTERM, five stages", 20, signal.SIGTERM)
    yield stops(campaign, "SIGINT, five stages", 40, signal.SIGINT)
    tally, random = Tally("SIGINT while packages are imported"), campaign.random("imports")
    for k in campaign.times(20):
        script = list(STAGES)[k % len(STAGES)]
        models_dir = copy_of(campaign.old, campaign.folder / "stopped")
        command = [sys.executable, ROOT / f"{script}.py", *ask(script, models_dir)[1:]]
        process = subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        moment = float(random.uniform(0.2, 2.0))
        while process.poll() is None and toy.cpu_of(process.pid) < moment:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=toy.PATIENCE)
        done = Result(process.returncode, out, err, moment, 0)
        faults = [done.fault] + ["silent"] * (done.code not in (0, 130))
        tally.add(f"{script} after {moment:.2f} s of CPU", f"exit {done.code}", *faults, said=err)
    yield tally


def pairs(campaign: Campaign) -> Iterator[Tally]:
    """Two stages at once in a folder, in every pair."""
    tally = Tally("two at once, every pair of stages")
    every = [(first, second) for first in STAGES for second in STAGES]
    for first, second in every[:: max(1, round(1 / campaign.share))]:
        if campaign.late():
            break
        models_dir = copy_of(campaign.old, campaign.folder / "shared")
        campaign.undisturbed(first)
        child = toy.start(*ask(first, models_dir, "--seed", 8))
        deadline = time.monotonic() + 60
        lock = models_dir / ".lock"
        while not (lock.exists() and lock.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(child.pid, signal.SIGSTOP)  # in the middle of its work
        late = run(*ask(second, models_dir, "--seed", 8))
        os.kill(child.pid, signal.SIGCONT)
        done = child.wait()
        faults = [done.fault, late.fault]
        if done.code or facts(first, models_dir) != campaign.undisturbed(first)[0]:
            faults.append("wrong")
        told = late.code == 2 and f"{first}.py (process {child.pid}) works in" in late.err
        if not told:
            faults.append("silent")
        if hidden(models_dir):
            faults.append("left")
        said = f"{done.out[-300:]}{done.err} SECOND {late.code} {late.out[-300:]}{late.err}"
        end = "the second was told, the first was right" if told else "otherwise"
        tally.add(f"{first} and {second}", end, *dict.fromkeys(faults), said=said)
    yield tally
