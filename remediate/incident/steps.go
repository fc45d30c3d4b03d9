package incident

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/evenkeel/evenkeel/remediate/guard"
)

// perform takes a step whose call is idempotent by its key: the intent is
// journalled before the call, the outcome after it, and a call whose outcome is
// not known is repeated under the same key. Before each call the guards are asked,
// if there is an authorise. It reports true once the step took effect.
func (d *driver) perform(ctx context.Context, name StepName, authorise func() []guard.Hold, call func(context.Context, *Step) error) (time.Duration, bool, error) {
	s := d.t.current().last(name)
	switch {
	case s != nil && s.TookEffect():
		return again, true, nil
	case s != nil && s.Outcome != StepPending:
		if until := s.OutcomeAt.Add(d.backoff(name)); d.opts.Now().Before(until) {
			wait, err := d.hold(ctx, holdRefused, fmt.Sprintf("%s: %s", name, s.Detail), until)
			return wait, false, err
		}
	}
	if authorise != nil {
		if holds := authorise(); len(holds) > 0 {
			wait, err := d.held(ctx, holds...)
			return wait, false, err
		}
		defer d.unclaim()
	}
	if s == nil || !s.open() {
		if err := d.intend(ctx, Step{Name: name}); err != nil {
			return 0, false, err
		}
		s = d.t.current().last(name)
	}
	err := d.call(ctx, func(ctx context.Context) error { return call(ctx, s) })
	outcome, detail := judgeCall(err)
	if err := d.settle(ctx, name, outcome, detail); err != nil {
		return 0, false, err
	}
	return again, outcome == StepDone, nil
}

// judgeCall is what an actuator's answer means.
func judgeCall(err error) (StepOutcome, string) {
	switch {
	case err == nil:
		return StepDone, ""
	case errors.Is(err, ErrNotExecuted):
		return StepRefused, clip(err.Error())
	}
	return StepAmbiguous, clip(err.Error())
}

// clip bounds an error's text in the journal.
func clip(s string) string {
	const most = 300
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// maxBackoff bounds the doubling of retry_after.
const maxBackoff = 5

// backoff is the pause after a refused or ambiguous call, doubled with each
// attempt: a provider without capacity is not asked every half minute.
func (d *driver) backoff(name StepName) time.Duration {
	s := d.t.current().last(name)
	return d.opts.Policy.Timing.RetryAfter << min(max(s.Attempt-1, 0), maxBackoff)
}

// intend journals the intent of a step as its next attempt.
func (d *driver) intend(ctx context.Context, s Step) error {
	now := d.opts.Now()
	err := d.save(ctx, d.t, func(i *Incident) { i.begin(s, now) })
	if err != nil {
		return err
	}
	d.log(d.t.current(), "incident step", "step", s.Name, "attempt", d.t.current().last(s.Name).Attempt)
	return nil
}

// begin appends a step as the next attempt of its name.
func (i *Incident) begin(s Step, now time.Time) {
	s.Attempt = 1
	if last := i.last(s.Name); last != nil {
		s.Attempt = last.Attempt + 1
	}
	s.Key, s.IntentAt = fmt.Sprintf("%s/%s/%d", i.ID, s.Name, s.Attempt), now
	i.hold(nil, now)
	i.Steps = append(i.Steps, s)
}

// settle journals the outcome of the newest step of a name.
func (d *driver) settle(ctx context.Context, name StepName, outcome StepOutcome, detail string) error {
	now := d.opts.Now()
	err := d.save(ctx, d.t, func(i *Incident) {
		s := i.last(name)
		s.Outcome, s.OutcomeAt, s.Detail = outcome, now, detail
	})
	if err != nil {
		return err
	}
	s := d.t.current().last(name)
	d.readAfter = time.Time{} // the world has changed
	d.metrics.step(s)
	d.log(d.t.current(), "incident step", "step", name, "attempt", s.Attempt, "outcome", outcome, "detail", detail)
	return nil
}

// skip journals that a step is not necessary.
func (d *driver) skip(ctx context.Context, name StepName, why string) error {
	now := d.opts.Now()
	err := d.save(ctx, d.t, func(i *Incident) {
		i.begin(Step{Name: name, Outcome: StepSkipped, OutcomeAt: now, Detail: why}, now)
	})
	if err != nil {
		return err
	}
	d.metrics.step(d.t.current().last(name))
	d.log(d.t.current(), "incident step", "step", name, "outcome", StepSkipped, "detail", why)
	return nil
}
