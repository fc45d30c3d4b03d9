package incident

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/journal"
)

func states(i Incident) []State {
	var s []State
	for _, p := range i.Phases {
		s = append(s, p.State)
	}
	return s
}

// A GPU falls off the bus: the job goes on with the spare at once, from the
// newest whole checkpoint, and the node is replaced once.
func TestReplaceWithSpare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(4, true)
		p := launch(t, w, w.options(handsOff(t), &journal.Memory{}))
		defer p.stop()
		w.raise("n1", fault.XidOffTheBus)
		time.Sleep(10 * time.Minute)
		synctest.Wait()

		i := p.only(t)
		if i.State != Closed || i.Outcome != Repaired {
			t.Errorf("incident is %s, %s, held %v; want closed, repaired", i.State, i.Outcome, i.Held())
		}
		want := []State{Observed, Confirmed, Isolated, CheckpointGate, Resuming, Acting, AwaitingReturn, Validating, Closed}
		if diff := cmp.Diff(want, states(i)); diff != "" {
			t.Errorf("states differ (-want +got):\n%s", diff)
		}
		wantCalls := []string{"isolate n1", "stop 42", "resume 42 from /ckpt/step_400", "replace i-1-0", "unisolate n1"}
		if diff := cmp.Diff(wantCalls, w.calls); diff != "" {
			t.Errorf("calls differ (-want +got):\n%s", diff)
		}
		if slices.Contains(w.job.nodes, "n1") || !slices.Contains(w.job.nodes, "n3") {
			t.Errorf("job runs on %v, want it off n1 and on the spare n3", w.job.nodes)
		}
		if diff := cmp.Diff([]string{"n1"}, w.excluded); diff != "" {
			t.Errorf("the job is kept off the wrong nodes (-want +got):\n%s", diff)
		}
		if len(i.Checkpoint.Refused) != 1 {
			t.Errorf("refused checkpoints = %v, want the torn one", i.Checkpoint.Refused)
		}
	})
}

// Without a spare the job is stopped, the node repaired, and the job resumed on it.
func TestRebootWithoutSpare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(3, false)
		p := launch(t, w, w.options(handsOff(t), &journal.Memory{}))
		defer p.stop()
		w.raise("n1", fault.XidDoubleBitECC)
		time.Sleep(10 * time.Minute)
		synctest.Wait()

		i := p.only(t)
		if i.State != Closed || i.Outcome != Repaired {
			t.Errorf("incident is %s, %s, held %v; want closed, repaired", i.State, i.Outcome, i.Held())
		}
		want := []State{Observed, Confirmed, Isolated, CheckpointGate, Acting, AwaitingReturn, Validating, Resuming, Closed}
		if diff := cmp.Diff(want, states(i)); diff != "" {
			t.Errorf("states differ (-want +got):\n%s", diff)
		}
		if len(w.excluded) != 0 {
			t.Errorf("the job is kept off %v, want off no node: n1 is well again", w.excluded)
		}
		wantCalls := []string{"isolate n1", "stop 42", "reboot i-1-0", "unisolate n1", "resume 42 from /ckpt/step_400"}
		if diff := cmp.Diff(wantCalls, w.calls); diff != "" {
			t.Errorf("calls differ (-want +got):\n%s", diff)
		}
	})
}
