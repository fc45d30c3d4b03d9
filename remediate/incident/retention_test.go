package incident

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/journal"
)

// The journal forgets the oldest incidents that no guard needs, and no other.
func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal.Memory{}
		session, err := j.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		closed := func(id string, age time.Duration, o Outcome, steps ...Step) {
			at := now.Add(-age)
			value, err := encodeRecord(record{Incident: &Incident{
				ID: id, Node: "gone-" + id, State: Closed, Outcome: o, Phases: []Phase{{State: Closed, From: at}}, OpenedAt: at, ClosedAt: at, Steps: steps,
			}})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := session.Put(t.Context(), incidentPrefix+id, 0, value); err != nil {
				t.Fatal(err)
			}
		}
		for n := range maxClosed {
			closed(fmt.Sprintf("old-%04d", n), 100*time.Hour-time.Duration(n)*time.Second, Recovered)
		}
		closed("within-window", time.Hour, Repaired)
		closed("left-isolated", 200*time.Hour, Failed, Step{Name: StepIsolate, Key: "k", Outcome: StepDone})

		w := newWorld(3, false)
		p := launch(t, w, w.options(handsOff(t), j))
		defer p.stop()
		w.raise("n1", fault.XidNVLink, provisional)
		time.Sleep(time.Minute)
		w.clear("n1", fault.ClearReading)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(p.Incidents()); n != maxClosed {
			t.Errorf("%d incidents are remembered, want %d", n, maxClosed)
		}
		if n := len(journalled(t, j)); n != maxClosed {
			t.Errorf("the journal holds %d records, want %d", n, maxClosed)
		}
		for id, want := range map[string]bool{
			"left-isolated": true, "within-window": true, "old-0000": false, "old-0001": false, "old-0002": false, "old-0003": true,
		} {
			if _, got := p.Incident(id); got != want {
				t.Errorf("incident %s is remembered: %v, want %v", id, got, want)
			}
		}
	})
}
