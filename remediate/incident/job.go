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

// plan looks at the job that holds the node and decides the order: with a spare
// the job goes on before the node is repaired, without one after it.
func (d *driver) plan(ctx context.Context, l look) (time.Duration, error) {
	if wait, paced := d.paced(); paced {
		return wait, nil
	}
	view, err := read(ctx, d, func(ctx context.Context) (NodeView, error) { return d.opts.Nodes.View(ctx, l.i.Node) })
	if err != nil {
		return d.hold(ctx, holdWorld, "the orchestrator does not say what holds the node", time.Time{})
	}
	if takenOver(l.i, view) {
		return d.finish(ctx, HandedOver, putBack)
	}
	if view.Job == "" {
		return d.withoutJob(ctx, l, "no job holds the node")
	}
	job, err := d.readJob(ctx, view.Job)
	switch {
	case errors.Is(err, ErrNotFound):
		return d.withoutJob(ctx, l, "the job that held the node is gone")
	case err != nil || job.State == JobUnknown:
		return d.hold(ctx, holdWorld, "the orchestrator does not answer for the job", time.Time{})
	case job.SelfResuming:
		return d.withoutJob(ctx, l, fmt.Sprintf("job %s restarts by itself", job.Job))
	case job.State == JobEnded:
		return d.withoutJob(ctx, l, fmt.Sprintf("job %s has ended", job.Job))
	case job.State == JobStopped:
		return d.withoutJob(ctx, l, fmt.Sprintf("job %s is held already", job.Job))
	}
	spare := d.hasSpare(l)
	why := fmt.Sprintf("job %s goes on after the repair", job.Job)
	if spare {
		why = fmt.Sprintf("job %s goes on with a spare", job.Job)
	}
	return d.enter(ctx, CheckpointGate, why, func(i *Incident) { i.Job, i.ResumeFirst, i.GateSince = job.Job, spare, time.Time{} })
}

const putBack = "somebody put the node back into service"

func (d *driver) readJob(ctx context.Context, job string) (JobView, error) {
	return read(ctx, d, func(ctx context.Context) (JobView, error) { return d.opts.Jobs.Job(ctx, job) })
}

// withoutJob goes on when there is no job to stop.
func (d *driver) withoutJob(ctx context.Context, l look, why string) (time.Duration, error) {
	if l.i.Decision.Remedy == fault.RestartApp {
		return d.finish(ctx, Recovered, why+": nothing to start again")
	}
	return d.enter(ctx, Acting, why, nil)
}

// hasSpare reports whether the facts hold a well, idle node that no incident is
// about.
func (d *driver) hasSpare(l look) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !l.current {
		return false
	}
	for _, nf := range d.facts {
		if nf.View != nil && nf.View.Idle && !nf.View.Isolated && nf.Fresh && nf.State == fault.OK &&
			nf.Node != l.i.Node && d.open[nf.Node] == nil {
			return true
		}
	}
	return false
}

// checkpointGate stops the job and chooses what it is resumed from.
func (d *driver) checkpointGate(ctx context.Context) (time.Duration, error) {
	l, err := d.look(ctx)
	if err != nil {
		return 0, err
	}
	if stop := l.i.last(StepStop); stop == nil || !stop.TookEffect() {
		return d.stop(ctx, l, stop)
	}
	if wait, paced := d.paced(); paced {
		return wait, nil
	}
	job, err := d.readJob(ctx, l.i.Job)
	stop := l.i.last(StepStop)
	switch {
	case errors.Is(err, ErrNotFound):
		return d.leaveJob(ctx, l, "the job is gone")
	case err != nil || job.State == JobUnknown:
		return d.hold(ctx, holdWorld, "the orchestrator does not answer for the job", time.Time{})
	case job.State == JobEnded:
		return d.leaveJob(ctx, l, "the job has ended")
	case job.State != JobStopped && job.LastKey != stop.Key && l.now.After(stop.OutcomeAt.Add(d.opts.Policy.Timing.ProviderLag)):
		return d.leaveJob(ctx, l, "somebody else started the job again")
	case job.State != JobStopped:
		return d.hold(ctx, holdJob, "the job has not stopped yet", time.Time{})
	}
	return d.gate(ctx, l, job)
}

// stop stops the job, unless it left the node or the node is a person's again.
// Without a spare the job is stopped only when the node would be repaired at
// once: until then it may limp on.
func (d *driver) stop(ctx context.Context, l look, s *Step) (time.Duration, error) {
	if s == nil || !s.MayHaveTakenEffect() {
		if ok, why := l.i.cleared(); ok {
			return d.recovering(ctx, l, why)
		}
		if !l.i.ResumeFirst && l.i.Decision.Remedy != fault.RestartApp {
			if holds := d.wouldHold(l); len(holds) > 0 && !d.suspectsTakeOver(l) {
				return d.held(ctx, holds...)
			}
		}
		if wait, paced := d.paced(); paced {
			return wait, nil
		}
		view, err := read(ctx, d, func(ctx context.Context) (NodeView, error) { return d.opts.Nodes.View(ctx, l.i.Node) })
		switch {
		case err != nil:
			return d.hold(ctx, holdWorld, "the orchestrator does not say what holds the node", time.Time{})
		case takenOver(l.i, view):
			return d.finish(ctx, HandedOver, putBack)
		case view.Job != l.i.Job:
			return d.enter(ctx, Isolated, fmt.Sprintf("job %s left the node", l.i.Job), nil)
		}
	}
	wait, _, err := d.perform(ctx, StepStop, func() []guard.Hold {
		return d.authorise(d.request(l, guard.Stop, factWitnesses(l), d.isolatedByOthers(l)), guard.Stop)
	}, func(ctx context.Context, s *Step) error {
		return d.opts.Jobs.Stop(ctx, Stoppage{Key: s.Key, Job: l.i.Job, Reason: l.i.reason(), Simulated: l.i.Simulated})
	})
	return wait, err
}

// mover gives the other open incident that stops or has stopped the same job:
// one job is moved once. The caller holds mu.
func (d *driver) mover(i *Incident) string {
	for _, t := range d.open {
		if other := t.current(); t != d.t && other.Job == i.Job && (other.owesJob() || t.claim == guard.Stop) {
			return other.ID
		}
	}
	return ""
}

// leaveJob goes on without resuming the job.
func (d *driver) leaveJob(ctx context.Context, l look, why string) (time.Duration, error) {
	if err := d.skip(ctx, StepResume, why); err != nil {
		return 0, err
	}
	return d.afterJob(ctx, l, why)
}

// gate chooses the newest whole checkpoint. A job is started from its beginning
// only when its folder was seen empty for a while: a torn checkpoint, an unknown
// folder or a failing file system hold it instead.
func (d *driver) gate(ctx context.Context, l look, job JobView) (time.Duration, error) {
	if job.CheckpointDir == "" {
		return d.hold(ctx, holdCheckpoint, "the orchestrator does not say where the job writes its checkpoints", time.Time{})
	}
	choice, err := read(ctx, d, func(ctx context.Context) (Choice, error) {
		return d.opts.Checkpoints.Choose(ctx, job.CheckpointDir)
	})
	switch {
	case err != nil:
		return d.hold(ctx, holdCheckpoint, "the job's checkpoints cannot be read: "+clip(err.Error()), time.Time{})
	case choice.Path != "":
		return d.chosen(ctx, l, choice, "resume from "+choice.Path)
	case len(choice.Refused) > 0:
		return d.hold(ctx, holdCheckpoint, fmt.Sprintf("none of the job's %d checkpoints is whole", len(choice.Refused)), time.Time{})
	}
	if l.i.GateSince.IsZero() {
		return again, d.save(ctx, d.t, func(i *Incident) { i.GateSince = l.now })
	}
	if until := l.i.GateSince.Add(d.opts.Policy.Timing.CheckpointWait); l.now.Before(until) {
		return d.hold(ctx, holdCheckpoint, "the job has no checkpoint; it may be only that the file system is slow to show it", until)
	}
	return d.chosen(ctx, l, choice, "the job wrote no checkpoint: resume from its beginning")
}

func (d *driver) chosen(ctx context.Context, l look, choice Choice, why string) (time.Duration, error) {
	next := Acting
	if l.i.ResumeFirst || l.i.Decision.Remedy == fault.RestartApp {
		next = Resuming
	}
	return d.enter(ctx, next, why, func(i *Incident) { i.Checkpoint = choice })
}

// resuming gives the job back. No guard restrains it.
func (d *driver) resuming(ctx context.Context) (time.Duration, error) {
	l, err := d.look(ctx)
	if err != nil {
		return 0, err
	}
	stop, resume := l.i.last(StepStop), l.i.last(StepResume)
	if resume != nil && (resume.TookEffect() || resume.Outcome == StepSkipped) {
		return d.afterJob(ctx, l, "the job goes on")
	}
	if wait, paced := d.paced(); paced {
		return wait, nil
	}
	job, err := d.readJob(ctx, l.i.Job)
	switch {
	case errors.Is(err, ErrNotFound):
		return d.leaveJob(ctx, l, "the job is gone")
	case err != nil || job.State == JobUnknown:
		return d.hold(ctx, holdWorld, "the orchestrator does not answer for the job", time.Time{})
	case job.State == JobEnded:
		return d.leaveJob(ctx, l, "the job has ended")
	case job.LastKey != stop.Key && (resume == nil || job.LastKey != resume.Key):
		return d.leaveJob(ctx, l, "somebody else stopped or started the job since")
	}
	wait, _, err := d.perform(ctx, StepResume, nil, func(ctx context.Context, s *Step) error {
		return d.opts.Jobs.Resume(ctx, Resumption{
			Key: s.Key, Job: l.i.Job, Checkpoint: l.i.Checkpoint.Path, Exclude: d.excluded(), Simulated: l.i.Simulated,
		})
	})
	return wait, err
}

// excluded lists the nodes that a job must not be resumed on.
func (d *driver) excluded() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var nodes []string
	for node, t := range d.open {
		if i := t.current(); i.isolationKey() != "" && i.Outcome != HandedOver {
			nodes = append(nodes, node)
		}
	}
	slices.Sort(nodes)
	return nodes
}

// afterJob goes on where the job's turn interrupted the repair of the node.
func (d *driver) afterJob(ctx context.Context, l look, why string) (time.Duration, error) {
	switch {
	case l.i.Outcome != "":
		return d.enter(ctx, Closed, l.i.OutcomeReason, nil)
	case l.i.Decision.Remedy == fault.RestartApp:
		return d.finish(ctx, Repaired, why)
	case !l.i.struck():
		return d.enter(ctx, Acting, why, nil)
	}
	return d.enter(ctx, AwaitingReturn, why, nil)
}
