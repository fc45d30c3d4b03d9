package incident

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evenkeel/evenkeel/remediate/journal"
	"github.com/evenkeel/evenkeel/remediate/policy"
)

// handsOff is the shipped policy that acts, changed as a test needs it.
func handsOff(t testing.TB, change ...func(*policy.Policy)) policy.Policy {
	t.Helper()
	p, err := policy.Shipped(policy.NameHandsOff)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(&p)
	}
	return p
}

func (w *world) options(p policy.Policy, j journal.Journal) Options {
	return Options{
		Cluster: "c", Policy: p, Catalogue: catalogue, Journal: j,
		Isolator: w, Nodes: w, Jobs: w, Machines: w, Checkpoints: w,
	}
}

// process is a running controller that the world's facts are shown to.
type process struct {
	*Controller
	cancel context.CancelFunc
	ended  sync.WaitGroup
	runErr error
}

// launch starts a controller and shows it the facts every 5 s.
func launch(t testing.TB, w *world, opts Options) *process {
	t.Helper()
	p, err := tryLaunch(w, opts)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func tryLaunch(w *world, opts Options) (*process, error) {
	ctx, cancel := context.WithCancel(context.Background())
	c, err := New(ctx, opts)
	if err != nil {
		cancel()
		return nil, err
	}
	p := &process{Controller: c, cancel: cancel}
	p.ended.Go(func() { p.runErr = c.Run(ctx) })
	p.ended.Go(func() {
		ticker := time.NewTicker(5 * time.Second)
		defer ticker.Stop()
		for ctx.Err() == nil {
			_ = c.Observe(ctx, w.facts())
			select {
			case <-ctx.Done():
			case <-ticker.C:
			}
		}
	})
	return p, nil
}

// stop ends the process and waits for it.
func (p *process) stop() {
	p.cancel()
	p.ended.Wait()
}

// only gives the single incident that there is.
func (p *process) only(t testing.TB) Incident {
	t.Helper()
	all := p.Incidents()
	if len(all) != 1 {
		t.Fatalf("there are %d incidents, want 1: %v", len(all), all)
	}
	return all[0]
}

// journalled gives what a journal holds, decoded.
func journalled(t testing.TB, j *journal.Memory) []record {
	t.Helper()
	var all []record
	for _, jr := range j.Records() {
		r, err := decodeRecord(jr.Key, jr.Value)
		if err != nil {
			t.Error(err)
			continue
		}
		all = append(all, r)
	}
	return all
}

// scene is one story: what happens to a cluster under a running controller.
type scene struct {
	*testing.T
	w *world
	j *journal.Memory
	p *process
}

// play runs a story in a bubble of time.
func play(t *testing.T, nodes int, spare bool, pol policy.Policy, story func(*scene)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &scene{T: t, w: newWorld(nodes, spare), j: &journal.Memory{}}
		s.p = launch(t, s.w, s.w.options(pol, s.j))
		defer func() { s.p.stop() }()
		story(s)
	})
}

// pass lets time pass. The lock orders what the story read and wrote before with
// what the world does meanwhile, and that with what the story reads after.
func (s *scene) pass(d time.Duration) {
	s.w.do(func() {})
	time.Sleep(d)
	synctest.Wait()
	s.w.do(func() {})
}

// restart ends the controller and starts another one on the same journal.
func (s *scene) restart(pol policy.Policy) {
	s.p.stop()
	s.p = launch(s.T, s.w, s.w.options(pol, s.j))
}

// wantCalls compares the calls that took effect so far.
func (s *scene) wantCalls(want ...string) {
	s.Helper()
	if diff := cmp.Diff(want, s.w.calls); diff != "" {
		s.Errorf("calls differ (-want +got):\n%s", diff)
	}
}

func (s *scene) wantEnd(o Outcome) {
	s.Helper()
	if i := s.p.only(s.T); i.State != Closed || i.Outcome != o {
		s.Errorf("incident is %s, %q (%s), held %v; want closed, %s", i.State, i.Outcome, i.OutcomeReason, i.Held(), o)
	}
}

func (s *scene) wantNodeInService(name string) {
	s.Helper()
	if n := s.w.nodes[name]; n.isolated {
		s.Errorf("%s is isolated as %q, held %v", name, n.isolationKey, s.p.Holds())
	}
}

func (s *scene) wantHeld(guards ...string) {
	s.Helper()
	var got []string
	for _, h := range s.p.Holds() {
		got = append(got, h.Guard)
	}
	if !slices.Equal(got, guards) {
		s.Errorf("held by %v, want %v", s.p.Holds(), guards)
	}
}
