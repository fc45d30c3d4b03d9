package incident

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/guard"
)

// handlers is what is done in each state. The order of states is decided by the
// handlers' calls of enter and finish.
var handlers map[State]func(*driver, context.Context) (time.Duration, error)

func init() {
	handlers = map[State]func(*driver, context.Context) (time.Duration, error){
		Observed:       (*driver).observed,
		Confirmed:      (*driver).confirmed,
		Isolated:       (*driver).isolated,
		CheckpointGate: (*driver).checkpointGate,
		Acting:         (*driver).acting,
		AwaitingReturn: (*driver).awaitingReturn,
		Validating:     (*driver).validating,
		Resuming:       (*driver).resuming,
	}
}

// observed waits for the confirmation of a finding, or its end.
func (d *driver) observed(ctx context.Context) (time.Duration, error) {
	l, err := d.look(ctx)
	if err != nil {
		return 0, err
	}
	if ok, why := l.i.cleared(); ok {
		return d.finish(ctx, Recovered, why)
	}
	if l.best != nil && l.best.standing {
		return d.enter(ctx, Confirmed, l.best.decision.Reason, nil)
	}
	h, _ := guard.Standing{}.Check(d.request(l, guard.Isolate, nil, false))
	return d.held(ctx, h)
}

// confirmed isolates the node once every guard allows it.
func (d *driver) confirmed(ctx context.Context) (time.Duration, error) {
	l, err := d.look(ctx)
	if err != nil {
		return 0, err
	}
	if ok, why := l.i.cleared(); ok {
		if l.i.isolationKey() != "" { // asked for, and the answer was lost
			return d.enter(ctx, Validating, why, nil)
		}
		return d.finish(ctx, Recovered, why)
	}
	if l.i.Decision.Remedy == fault.RestartApp {
		return d.plan(ctx, l) // the node stays in service
	}
	authorise := func() []guard.Hold {
		return d.authorise(d.request(l, guard.Isolate, factWitnesses(l), d.isolatedByOthers(l)), guard.Isolate)
	}
	if key := d.inherited(l); key != "" && l.i.last(StepIsolate) == nil {
		return d.inherit(ctx, key, authorise)
	}
	wait, ok, err := d.perform(ctx, StepIsolate, authorise, func(ctx context.Context, s *Step) error {
		return d.opts.Isolator.Isolate(ctx, Isolation{Key: s.Key, Node: l.i.Node, Reason: l.i.reason(), Simulated: l.i.Simulated})
	})
	if !ok {
		return wait, err
	}
	return d.enter(ctx, Isolated, "every guard allows it", nil)
}

// reason is what the orchestrator shows for an isolation or a stop.
func (i *Incident) reason() string { return fmt.Sprintf("evenkeel %s %s", i.ID, i.Kind) }

// isolated looks at the job that holds the node and decides the order.
func (d *driver) isolated(ctx context.Context) (time.Duration, error) {
	l, err := d.look(ctx)
	if err != nil {
		return 0, err
	}
	if ok, why := l.i.cleared(); ok {
		return d.recovering(ctx, l, why)
	}
	return d.plan(ctx, l)
}

// recovering gives back what was taken, after evidence was cleared before
// anything was done to the node.
func (d *driver) recovering(ctx context.Context, l look, why string) (time.Duration, error) {
	if l.i.isolationKey() == "" {
		return d.finish(ctx, Recovered, why)
	}
	return d.enter(ctx, Validating, why, nil)
}

// takenOver reports whether a person undid the isolation that was in force.
func takenOver(i *Incident, view NodeView) bool {
	return i.did(StepIsolate) && view.IsolationKey != i.isolationKey()
}

// suspectsTakeOver is takenOver by the facts, which may be a little older than
// the isolation: it is a reason to ask, not an answer.
func (d *driver) suspectsTakeOver(l look) bool {
	return l.current && l.node.View != nil && takenOver(l.i, *l.node.View)
}

// factWitnesses are the views that the facts hold.
func factWitnesses(l look) []guard.Witness {
	orchestrator := guard.Witness{Name: "orchestrator"}
	if l.node != nil && l.node.View != nil {
		orchestrator = orchestratorWitness(*l.node.View)
	}
	return append(reportWitness(l), orchestrator)
}

func orchestratorWitness(v NodeView) guard.Witness {
	return guard.Witness{Name: "orchestrator", Known: true, InstanceID: v.InstanceID, BootID: v.BootID}
}

// reportWitness is the newest report. For silence that is the last one, which
// says nothing if it is another machine's.
func reportWitness(l look) []guard.Witness {
	if l.node == nil {
		return nil
	}
	w := guard.Witness{Name: "report", Known: l.node.Fresh, InstanceID: l.node.InstanceID, BootID: l.node.BootID}
	if l.best != nil && own(l.best.row) {
		if w.Known = true; w.InstanceID != l.best.finding.Subject.InstanceID {
			return nil
		}
	}
	return []guard.Witness{w}
}

// isolatedByOthers reports whether an isolation is in force that is neither this
// incident's nor inherited.
func (d *driver) isolatedByOthers(l look) bool {
	return l.node != nil && l.node.View != nil && l.node.View.Isolated && d.inherited(l) == "" &&
		!slices.ContainsFunc(l.i.Steps, func(s Step) bool { return s.Name == StepIsolate && s.Key == l.node.View.IsolationKey })
}

// inherited gives the key of the isolation that is in force if an earlier
// incident left it on the node, empty otherwise.
func (d *driver) inherited(l look) string {
	if l.node == nil || l.node.View == nil {
		return ""
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.leftBehind(l.i.Node, l.node.View.IsolationKey) == nil {
		return ""
	}
	return l.node.View.IsolationKey
}

// inherit makes an earlier incident's isolation this one's.
func (d *driver) inherit(ctx context.Context, key string, authorise func() []guard.Hold) (time.Duration, error) {
	if holds := authorise(); len(holds) > 0 {
		return d.held(ctx, holds...)
	}
	defer d.unclaim()
	return d.enter(ctx, Isolated, "an earlier incident left the node isolated", func(i *Incident) {
		now := d.opts.Now()
		i.begin(Step{Name: StepIsolate, Outcome: StepDone, OutcomeAt: now, Detail: "left by an earlier incident"}, now)
		i.last(StepIsolate).Key = key
	})
}

// awaitingReturn waits until the node is back as another instance or boot.
func (d *driver) awaitingReturn(ctx context.Context) (time.Duration, error) {
	l, err := d.look(ctx)
	if err != nil {
		return 0, err
	}
	if l.i.owesJob() && d.hasSpare(l) {
		return d.enter(ctx, Resuming, "a spare turned up", func(i *Incident) { i.ResumeFirst = true })
	}
	act := l.i.act()
	deadline := l.i.since().Add(d.opts.Policy.Timing.ReturnTimeout)
	back, why := returned(act, l)
	if !back {
		if !l.now.Before(deadline) {
			return d.finish(ctx, Failed, fmt.Sprintf("the node did not come back within %s: %s", d.opts.Policy.Timing.ReturnTimeout, why))
		}
		return d.hold(ctx, holdReturn, why, deadline)
	}
	if act.Name == StepReplace {
		if wait, paced := d.paced(); paced {
			return wait, nil
		}
		m, err := read(ctx, d, func(ctx context.Context) (Machine, error) { return d.opts.Machines.AtNode(ctx, l.i.Node) })
		if err != nil || m.InstanceID != l.node.InstanceID {
			if !l.now.Before(deadline) {
				return d.finish(ctx, Failed, "the provider does not know the instance that reports")
			}
			return d.hold(ctx, holdReturn, "the provider does not show the new instance yet", deadline)
		}
	}
	return d.enter(ctx, Validating, why, func(i *Incident) { i.ReturnedAt = l.now })
}

// returned reports whether a fresh report comes from what the act made of the node.
func returned(act *Step, l look) (bool, string) {
	switch {
	case l.node == nil || !l.current || !l.node.Fresh:
		return false, "the node does not report yet"
	case act.Name == StepReplace && (l.node.InstanceID == "" || l.node.InstanceID == act.InstanceID):
		return false, "the node still reports as the old instance"
	case l.node.BootID == act.BootID:
		return false, "the node still reports the old boot"
	}
	return true, fmt.Sprintf("the node reports as instance %s", l.node.InstanceID)
}

// validating gives the node back once it was well for long enough.
func (d *driver) validating(ctx context.Context) (time.Duration, error) {
	l, err := d.look(ctx)
	if err != nil {
		return 0, err
	}
	struck := l.i.struck()
	if l.best != nil && l.best.standing {
		if struck {
			return d.finish(ctx, Failed, fmt.Sprintf("the node came back with %s", l.best.finding.Kind))
		}
		return d.relapsed(ctx, l)
	}
	if well, why := d.wellSince(l); !well {
		if deadline := l.i.since().Add(d.opts.Policy.Timing.ReturnTimeout); struck && !l.now.Before(deadline) {
			return d.finish(ctx, Failed, fmt.Sprintf("the node was not well within %s: %s", d.opts.Policy.Timing.ReturnTimeout, why))
		}
		return d.hold(ctx, holdReturn, why, d.healthySince.Add(d.opts.Policy.Timing.HealthyFor))
	}
	if wait, ok, err := d.unisolate(ctx, l); !ok {
		return wait, err
	}
	if struck {
		return d.finish(ctx, Repaired, "the node is back and well")
	}
	return d.finish(ctx, Recovered, "the evidence was cleared and the node is well")
}

// relapsed goes on when a fault is back before the node was given back.
func (d *driver) relapsed(ctx context.Context, l look) (time.Duration, error) {
	why := fmt.Sprintf("%s came back", l.best.finding.Kind)
	undo := l.i.last(StepUnisolate)
	switch {
	case l.i.isolationKey() == "", undo != nil && undo.MayHaveTakenEffect():
		// Given back, or perhaps: whether it is isolated is for the next incident to see.
		return d.finish(ctx, Recovered, "the node was being given back when "+why)
	case !l.i.did(StepIsolate):
		return d.enter(ctx, Confirmed, why, nil)
	}
	return d.enter(ctx, Isolated, why, nil)
}

// wellSince reports whether the node has been well for long enough, as whatever
// it became.
func (d *driver) wellSince(l look) (bool, string) {
	well, why := false, "the facts do not mention the node"
	if l.node != nil {
		well, why = d.judge.healthy(l.i, l.node, l.current)
	}
	if act := l.i.act(); well && act != nil && act.MayHaveTakenEffect() {
		well, why = returned(act, l)
	}
	if !well {
		d.healthySince = time.Time{}
		return false, why
	}
	if d.healthySince.IsZero() {
		d.healthySince = l.now
	}
	if l.now.Sub(d.healthySince) < d.opts.Policy.Timing.HealthyFor {
		return false, fmt.Sprintf("the node has to be well for %s", d.opts.Policy.Timing.HealthyFor)
	}
	return true, ""
}

// unisolate undoes the incident's own isolation; one that a person replaced or
// undid is left as it is.
func (d *driver) unisolate(ctx context.Context, l look) (time.Duration, bool, error) {
	key := l.i.isolationKey()
	if key == "" {
		return again, true, nil
	}
	if s := l.i.last(StepUnisolate); s == nil || !s.open() {
		if wait, paced := d.paced(); paced {
			return wait, false, nil
		}
		view, err := read(ctx, d, func(ctx context.Context) (NodeView, error) { return d.opts.Nodes.View(ctx, l.i.Node) })
		switch {
		case errors.Is(err, ErrNotFound):
			return again, true, d.skip(ctx, StepUnisolate, "the orchestrator has no such node")
		case err != nil:
			wait, err := d.hold(ctx, holdWorld, "the orchestrator does not say whether the node is isolated", time.Time{})
			return wait, false, err
		case view.IsolationKey != key:
			return again, true, d.skip(ctx, StepUnisolate, "the node is not isolated by this incident any more")
		}
		// The reading took time: what was heard since counts.
		newer, err := d.look(ctx)
		if err != nil {
			return 0, false, err
		}
		if well, _ := d.wellSince(newer); !well {
			return again, false, nil
		}
	}
	return d.perform(ctx, StepUnisolate, nil, func(ctx context.Context, _ *Step) error {
		return d.opts.Isolator.Unisolate(ctx, Isolation{Key: key, Node: l.i.Node, Reason: l.i.reason(), Simulated: l.i.Simulated})
	})
}
