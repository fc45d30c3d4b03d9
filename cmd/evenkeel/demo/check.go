package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/internal/sim/hyperpod"
	"github.com/evenkeel/evenkeel/internal/sim/trainer"
	"github.com/evenkeel/evenkeel/remediate/incident"
)

// sceneLimit is how long one incident may take in the demo.
const sceneLimit = 60 * time.Second

// now is a moment to compare the daemons' times with.
func (c *cluster) now() time.Time { return time.Now() }

// closed waits until the one incident on the node since then is closed with the
// outcome.
func (c *cluster) closed(ctx context.Context, node string, since time.Time, want incident.Outcome) (incident.Incident, error) {
	var found incident.Incident
	err := waitFor(ctx, sceneLimit, fmt.Sprintf("the end of the incident on %s", node), func() (bool, error) {
		incidents := c.watch.incidentsOn(node, since)
		if len(incidents) == 0 {
			return false, errors.New("there is no incident")
		}
		found = incidents[len(incidents)-1]
		return !found.Open(), fmt.Errorf("it is %s%s", found.State, heldBy(found))
	})
	if err != nil {
		return found, err
	}
	if n := len(c.watch.incidentsOn(node, since)); n != 1 {
		return found, fmt.Errorf("%d incidents on %s, want 1", n, node)
	}
	if found.Outcome != want {
		return found, fmt.Errorf("the incident on %s ended as %s (%s), want %s", node, found.Outcome, found.OutcomeReason, want)
	}
	return found, nil
}

func heldBy(i incident.Incident) string {
	var reasons []string
	for _, h := range i.Held() {
		reasons = append(reasons, fmt.Sprintf("%s: %s", h.Guard, h.Reason))
	}
	return after(", held by ", strings.Join(reasons, "; "))
}

// found waits for a confirmed finding of the kind on the node.
func (c *cluster) found(ctx context.Context, node string, kind fault.Kind) error {
	return waitFor(ctx, 30*time.Second, fmt.Sprintf("%s on %s", kind, node), func() (bool, error) {
		n, ok := c.watch.node(node)
		if !ok {
			return false, errors.New("the node is not known")
		}
		return slices.ContainsFunc(n.Findings, func(f fault.Finding) bool {
			return f.Kind == kind && f.State == fault.Bad && !f.Provisional
		}), fmt.Errorf("it has %d findings", len(n.Findings))
	})
}

// destructiveCalls are the calls since then that could end the work of a node,
// as the HyperPod server saw them.
func (c *cluster) destructiveCalls(since time.Time) []hyperpod.Call {
	var calls []hyperpod.Call
	for _, call := range c.hyperpod.Calls() {
		if (call.Operation == "BatchReplaceClusterNodes" || call.Operation == "BatchRebootClusterNodes") && !call.Time.Before(since) {
			calls = append(calls, call)
		}
	}
	return calls
}

// replacedOnce holds if the only such call since then replaced the instance.
func (c *cluster) replacedOnce(since time.Time, instance string) error {
	calls := c.destructiveCalls(since)
	if len(calls) != 1 || calls[0].Operation != "BatchReplaceClusterNodes" || !slices.Equal(calls[0].Accepted, []string{instance}) {
		return fmt.Errorf("the HyperPod server saw %+v, want one replacement of %s", calls, instance)
	}
	c.tell("check", "the HyperPod server saw exactly one replace call, for %s", instance)
	return nil
}

// untouched holds if nothing was isolated, stopped, rebooted or replaced since then.
func (c *cluster) untouched(since time.Time) error {
	var errs []error
	if calls := c.destructiveCalls(since); len(calls) > 0 {
		errs = append(errs, fmt.Errorf("the HyperPod server saw %+v, want no call", calls))
	}
	for _, name := range nodeNames {
		errs = append(errs, c.untouchedNode(name, since))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	c.tell("check", "no node was isolated, rebooted or replaced, and the job runs on")
	return nil
}

func (c *cluster) untouchedNode(node string, since time.Time) error {
	for _, i := range c.watch.incidentsOn(node, since) {
		if len(i.Steps) > 0 {
			return fmt.Errorf("%s: %s was attempted (%s), want the node left alone", node, i.Steps[0].Name, i.Steps[0].Outcome)
		}
	}
	return nil
}

// resumedBefore holds if the torn checkpoint was refused and the job went on
// from the one before it, before the node was replaced.
func (c *cluster) resumedBefore(i incident.Incident, torn int) error {
	refused := slices.ContainsFunc(i.Checkpoint.Refused, func(r incident.Refusal) bool {
		return strings.HasSuffix(r.Path, fmt.Sprintf("step-%d", torn))
	})
	if !refused || i.Checkpoint.Step != torn-checkpointEvery {
		return fmt.Errorf("the job was resumed from step %d with %v refused, want step %d with the torn step-%d refused",
			i.Checkpoint.Step, i.Checkpoint.Refused, torn-checkpointEvery, torn)
	}
	resume := slices.IndexFunc(i.Steps, func(s incident.Step) bool { return s.Name == incident.StepResume && s.TookEffect() })
	replace := slices.IndexFunc(i.Steps, func(s incident.Step) bool { return s.Name == incident.StepReplace })
	if resume < 0 || replace < 0 || resume > replace {
		return fmt.Errorf("steps are %+v, want the job resumed on the spare before the replacement", i.Steps)
	}
	return nil
}

// sameLosses holds if every loss that the job logged, before the fault and after
// the resume, is that of a run that nothing disturbed. It waits for twenty steps
// beyond the resume.
func (c *cluster) sameLosses(ctx context.Context, resumedFrom int) error {
	var lines []trainer.LossLine
	if err := waitFor(ctx, 20*time.Second, "twenty steps after the resume", func() (bool, error) {
		var err error
		if lines, err = readLosses(c.training.lossLog); err != nil || len(lines) == 0 {
			return false, err
		}
		last := lines[len(lines)-1].Step
		return c.training.starts() > 1 && last >= resumedFrom+20, fmt.Errorf("the last step is %d", last)
	}); err != nil {
		return err
	}
	last := 0
	for _, l := range lines {
		last = max(last, l.Step)
	}
	want, err := trainer.Reference(ctx, c.training.config(nil, ""), last)
	if err != nil {
		return err
	}
	again := 0
	for i, l := range lines {
		if l.Loss != want[l.Step-1] {
			return fmt.Errorf("the loss of step %d is %v, want %v as in an undisturbed run", l.Step, l.Loss, want[l.Step-1])
		}
		if i > 0 && l.Step <= lines[i-1].Step {
			again = lines[i-1].Step - resumedFrom
		}
	}
	c.tell("check", "all %d logged losses up to step %d equal an undisturbed run's, bit for bit; %d steps were computed twice", len(lines), last, again)
	return nil
}

// readLosses reads the loss log; a last line that is still being written is left out.
func readLosses(path string) ([]trainer.LossLine, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read losses: %w", err)
	}
	defer f.Close()
	var lines []trainer.LossLine
	s := bufio.NewScanner(f)
	for s.Scan() {
		var l trainer.LossLine
		if err := json.Unmarshal(s.Bytes(), &l); err != nil {
			break
		}
		lines = append(lines, l)
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("read losses: %w", err)
	}
	return lines, nil
}

// minutesLost prints where the job's time went between the fault and the first
// step after the resume.
func (c *cluster) minutesLost(i incident.Incident, struck time.Time) error {
	lines, err := readLosses(c.training.lossLog)
	if err != nil {
		return err
	}
	resumed := c.training.lastStart()
	var caughtUp time.Time // the first step that had not been computed before the fault
	before := 0
	for _, l := range lines {
		if l.Wall.Before(resumed) {
			before = max(before, l.Step)
		} else if l.Step > before {
			caughtUp = l.Wall
			break
		}
	}
	phase := func(s incident.State) time.Duration {
		var d time.Duration
		for _, p := range i.Phases {
			if p.State == s {
				d += p.To.Sub(p.From)
			}
		}
		return d
	}
	var first time.Time
	for _, l := range lines {
		if l.Wall.After(resumed) {
			first = l.Wall
			break
		}
	}
	stop := first.Sub(struck)
	confirmed := i.OpenedAt
	for _, p := range i.Phases {
		if p.State == incident.Confirmed {
			confirmed = p.From
			break
		}
	}
	c.tell("time lost", "%s until training went on: %s to see and confirm it, %s to isolate, stop and choose a checkpoint, %s to start the job again",
		round(stop), round(confirmed.Sub(struck)), round(resumed.Sub(confirmed)), round(first.Sub(resumed)))
	if !caughtUp.IsZero() {
		c.tell("time lost", "%s more to compute again what the torn checkpoint cost (step %d to %d)", round(caughtUp.Sub(first)), i.Checkpoint.Step+1, before)
	}
	c.tell("time lost", "meanwhile, without cost to the job: %s to replace the node, %s to validate it", round(phase(incident.Acting)+phase(incident.AwaitingReturn)), round(phase(incident.Validating)))
	return nil
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }
