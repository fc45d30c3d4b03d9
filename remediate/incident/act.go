package incident

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/evenkeel/evenkeel/remediate/guard"
)

// acting reboots or replaces the node, once. The provider's calls carry no token
// by which a repetition could be told from a second wish, so a call is repeated
// only after the world has shown that it had no effect.
func (d *driver) acting(ctx context.Context) (time.Duration, error) {
	l, err := d.look(ctx)
	if err != nil {
		return 0, err
	}
	act := l.i.act()
	switch {
	case act == nil:
		return d.strike(ctx, l)
	case act.Outcome == StepPending:
		return again, d.settle(ctx, act.Name, StepAmbiguous, "the outcome could not be written down")
	case act.Outcome == StepAmbiguous:
		return d.readWorld(ctx, l, act)
	case act.TookEffect():
		return d.enter(ctx, AwaitingReturn, fmt.Sprintf("%s of %s", act.Name, act.InstanceID), nil)
	}
	if until := act.OutcomeAt.Add(d.backoff(act.Name)); act.Outcome == StepRefused && l.now.Before(until) {
		return d.hold(ctx, holdRefused, fmt.Sprintf("%s: %s", act.Name, act.Detail), until)
	}
	return d.strike(ctx, l)
}

// strike checks everything again with the newest facts and fresh views of the
// orchestrator and the provider, journals the intent, and makes the call.
func (d *driver) strike(ctx context.Context, l look) (time.Duration, error) {
	if ok, why := l.i.cleared(); ok {
		return d.recovering(ctx, l, why)
	}
	if holds := d.wouldHold(l); len(holds) > 0 && !d.suspectsTakeOver(l) {
		return d.held(ctx, holds...)
	}
	if wait, paced := d.paced(); paced {
		return wait, nil
	}
	view, machine, wait, err := d.readNode(ctx, l)
	if err != nil || machine == nil {
		return wait, err
	}
	if takenOver(l.i, view) {
		return d.finish(ctx, HandedOver, putBack)
	}
	if machine.Busy {
		return d.hold(ctx, holdWorld, fmt.Sprintf("the provider is at work on the instance already: %s", machine.Status), time.Time{})
	}
	// The readings took time: look again, so that nothing stands between the
	// judgement and the intent.
	if l, err = d.look(ctx); err != nil {
		return 0, err
	}
	if ok, why := l.i.cleared(); ok {
		return d.recovering(ctx, l, why)
	}
	witnesses := append(reportWitness(l), orchestratorWitness(view), guard.Witness{Name: "provider", Known: true, InstanceID: machine.InstanceID})
	others := view.Isolated && view.IsolationKey != l.i.isolationKey()
	if holds := d.authorise(d.request(l, guard.Repair, witnesses, others), guard.Repair); len(holds) > 0 {
		return d.held(ctx, holds...)
	}
	defer d.unclaim()
	step := Step{Name: StepName(l.i.Decision.Remedy), InstanceID: machine.InstanceID, BootID: l.i.BootID, MachineStatus: machine.Status}
	return again, d.send(ctx, step)
}

// wouldHold asks the guards for a repair by the facts alone, so that the world
// is not read for an incident that has to wait anyway.
func (d *driver) wouldHold(l look) []guard.Hold {
	r := d.request(l, guard.Repair, nil, d.isolatedByOthers(l))
	r.Witnesses = append(factWitnesses(l), guard.Witness{Name: "provider", Known: true, InstanceID: r.Evidence.InstanceID})
	d.mu.Lock()
	defer d.mu.Unlock()
	r.Fleet, r.LastTouched = d.fleet(d.t)
	return d.guards.Check(r)
}

// readNode reads who stands behind the node, from the orchestrator and from the
// provider by name and by id. The machine is nil when the wait is to be taken.
func (d *driver) readNode(ctx context.Context, l look) (NodeView, *Machine, time.Duration, error) {
	unknown := func(who string) (NodeView, *Machine, time.Duration, error) {
		wait, err := d.hold(ctx, holdWorld, who, time.Time{})
		return NodeView{}, nil, wait, err
	}
	view, err := read(ctx, d, func(ctx context.Context) (NodeView, error) { return d.opts.Nodes.View(ctx, l.i.Node) })
	if err != nil {
		return unknown("the orchestrator does not answer for the node")
	}
	at, err := read(ctx, d, func(ctx context.Context) (Machine, error) { return d.opts.Machines.AtNode(ctx, l.i.Node) })
	if err != nil {
		return unknown("the provider does not say which instance the node is")
	}
	machine, err := read(ctx, d, func(ctx context.Context) (Machine, error) {
		return d.opts.Machines.Instance(ctx, at.InstanceID)
	})
	if err != nil {
		return unknown("the provider does not answer for the instance")
	}
	return view, &machine, 0, nil
}

// send journals the intent, makes the call and journals its outcome.
func (d *driver) send(ctx context.Context, step Step) error {
	if ctx.Err() != nil {
		return nil // the process is being ended: begin nothing
	}
	if err := d.intend(ctx, step); err != nil {
		return err
	}
	if d.killed() {
		return d.settle(ctx, step.Name, StepRefused, "the kill switch was turned on before the call")
	}
	d.countDuplicate(d.t.current())
	call := MachineCall{InstanceID: step.InstanceID, Simulated: d.t.current().Simulated}
	act := d.opts.Machines.Replace
	if step.Name == StepReboot {
		act = d.opts.Machines.Reboot
	}
	outcome, detail := judgeCall(d.call(ctx, func(ctx context.Context) error { return act(ctx, call) }))
	return d.settle(ctx, step.Name, outcome, detail)
}

// countDuplicate counts a replacement of an instance that was replaced already.
// It looks at nothing that the guards decided on, so that it finds their faults.
func (d *driver) countDuplicate(i *Incident) {
	act := i.act()
	if act.Name != StepReplace {
		return
	}
	for _, other := range d.Incidents() {
		for _, s := range other.Steps {
			if s.Name == StepReplace && s.Key != act.Key && s.InstanceID == act.InstanceID && s.MayHaveTakenEffect() {
				d.metrics.duplicates.Inc()
				d.log(i, "duplicate replacement", "instance", act.InstanceID, "first", s.Key)
				return
			}
		}
	}
}

// readWorld settles a call whose outcome is not known. What shows that it took
// effect settles it at once. That it did not is believed only when the provider
// still shows the instance as before the call, later than its lag after the last
// moment at which the call can have been sent. Whatever does not answer is
// unknown, and waited for.
func (d *driver) readWorld(ctx context.Context, l look, act *Step) (time.Duration, error) {
	if act.Name == StepReboot && l.current && l.node.Fresh && l.node.BootID != act.BootID {
		return again, d.settle(ctx, act.Name, StepSettledDone, "the node reports another boot")
	}
	if wait, paced := d.paced(); paced {
		return wait, nil
	}
	machine, err := read(ctx, d, func(ctx context.Context) (Machine, error) {
		return d.opts.Machines.Instance(ctx, act.InstanceID)
	})
	switch {
	case errors.Is(err, ErrNotFound):
		return again, d.settle(ctx, act.Name, StepSettledDone, "the provider has the instance no more")
	case err != nil:
		return d.hold(ctx, holdWorld, fmt.Sprintf("whether %s was executed is not known: the provider does not answer", act.Name), time.Time{})
	case machine.Busy, machine.Status != act.MachineStatus && !machine.Running:
		return again, d.settle(ctx, act.Name, StepSettledDone, fmt.Sprintf("the provider shows the instance as %s", machine.Status))
	}
	at, err := read(ctx, d, func(ctx context.Context) (Machine, error) { return d.opts.Machines.AtNode(ctx, l.i.Node) })
	switch {
	case err != nil && !errors.Is(err, ErrNotFound):
		return d.hold(ctx, holdWorld, fmt.Sprintf("whether %s was executed is not known: the provider does not answer", act.Name), time.Time{})
	case err == nil && at.InstanceID != act.InstanceID:
		return again, d.settle(ctx, act.Name, StepSettledDone, fmt.Sprintf("the node is instance %s now", at.InstanceID))
	}
	judged := act.OutcomeAt.Add(d.opts.Policy.Timing.ProviderLag)
	if !l.now.After(judged) {
		return d.hold(ctx, holdRefused, fmt.Sprintf("whether %s was executed is not known: %s", act.Name, act.Detail), judged)
	}
	if act.Name == StepReboot && !(l.current && l.node.Fresh) {
		// A node that does not report may be rebooting.
		if deadline := act.IntentAt.Add(d.opts.Policy.Timing.ReturnTimeout); l.now.Before(deadline) {
			return d.hold(ctx, holdReturn, "whether the reboot was executed is not known: the node does not report", deadline)
		}
		return d.finish(ctx, Failed, "the node did not report again after a reboot that may have been executed")
	}
	return again, d.settle(ctx, act.Name, StepSettledNotDone, fmt.Sprintf("the provider still shows the instance as %s", machine.Status))
}
