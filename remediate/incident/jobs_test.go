package incident

import (
	"errors"
	"testing"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// The gate: what a job may be resumed from.
func TestCheckpointGate(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*world)
		want   []string
		held   []string
	}{
		{
			"newest whole", func(w *world) {},
			[]string{"isolate n1", "stop 42", "resume 42 from /ckpt/step_400", "replace i-1-0", "unisolate n1"}, nil,
		},
		{
			"none at all", func(w *world) { w.choice = Choice{} },
			[]string{"isolate n1", "stop 42", "resume 42 from ", "replace i-1-0", "unisolate n1"}, nil,
		},
		{
			"only torn ones", func(w *world) { w.choice.Path = "" },
			[]string{"isolate n1", "stop 42"}, []string{"checkpoint"},
		},
		{
			"unreadable", func(w *world) { w.choice, w.chooseErr = Choice{}, errors.New("stale file handle") },
			[]string{"isolate n1", "stop 42"}, []string{"checkpoint"},
		},
		{
			"folder not known", func(w *world) { w.job.dir = "" },
			[]string{"isolate n1", "stop 42"}, []string{"checkpoint"},
		},
		{
			"resumes by itself", func(w *world) { w.job.self = true },
			[]string{"isolate n1", "replace i-1-0", "unisolate n1"}, nil,
		},
		{
			"held by a person", func(w *world) { w.job.state = JobStopped },
			[]string{"isolate n1", "replace i-1-0", "unisolate n1"}, nil,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			play(t, 4, true, handsOff(t), func(s *scene) {
				s.w.do(func() { tc.change(s.w) })
				s.w.raise("n1", fault.XidOffTheBus)
				s.pass(30 * time.Minute)
				s.wantCalls(tc.want...)
				s.wantHeld(tc.held...)
			})
		})
	}
}

// A spare that turns up while the node is away takes the job at once.
func TestLateSpareTakesTheJob(t *testing.T) {
	play(t, 4, true, handsOff(t), func(s *scene) {
		s.w.do(func() { s.w.nodes["n3"].isolated = true; s.w.repairTime = 30 * time.Minute })
		s.w.raise("n1", fault.XidOffTheBus)
		s.pass(5 * time.Minute)
		s.wantCalls("isolate n1", "stop 42", "replace i-1-0")
		s.w.do(func() { s.w.nodes["n3"].isolated = false })
		s.pass(time.Minute)
		s.wantCalls("isolate n1", "stop 42", "replace i-1-0", "resume 42 from /ckpt/step_400")
		s.pass(40 * time.Minute)
		s.wantEnd(Repaired)
	})
}

// Two nodes of one job: the job is moved for one of them at a time, and the nodes
// are repaired one after the other.
func TestTwoNodesOfOneJob(t *testing.T) {
	play(t, 5, true, handsOff(t), func(s *scene) {
		s.w.raise("n1", fault.XidOffTheBus)
		s.w.raise("n2", fault.XidDoubleBitECC)
		s.pass(time.Hour)
		for _, i := range s.p.Incidents() {
			if i.Outcome != Repaired {
				t.Errorf("incident on %s is %s, %q, held %v; want repaired", i.Node, i.State, i.Outcome, i.Held())
			}
		}
		if s.w.job.state != JobRunning || s.w.replaced["i-1-0"] != 1 || s.w.rebooted["boot-2-0"] != 1 {
			t.Errorf("job is %s, replaced %v, rebooted %v", s.w.job.state, s.w.replaced, s.w.rebooted)
		}
	})
}

// A job that a person started again meanwhile is theirs.
func TestJobStartedByHandIsLeftAlone(t *testing.T) {
	play(t, 3, false, handsOff(t), func(s *scene) {
		s.w.raise("n1", fault.XidOffTheBus)
		s.pass(time.Minute)
		s.wantCalls("isolate n1", "stop 42", "replace i-1-0")
		s.w.do(func() { s.w.job.state, s.w.job.lastKey = JobRunning, "" })
		s.pass(20 * time.Minute)
		s.wantCalls("isolate n1", "stop 42", "replace i-1-0", "unisolate n1")
		s.wantEnd(Repaired)
	})
}
