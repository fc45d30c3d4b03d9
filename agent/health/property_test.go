package health

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// TestInvariants feeds random observations and holds every step to what must
// never happen, whatever the order.
func TestInvariants(t *testing.T) {
	for seed := range uint64(40) {
		if !t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { newWalk(t, seed).run(120) }) {
			return
		}
	}
}

// walk is one random sequence, and what is known about it without the engine.
type walk struct {
	t      *testing.T
	random *rand.Rand
	now    time.Time
	engine *Engine
	before map[string]fault.Finding
	// vouched holds the kind and subject of every bad observation that somebody
	// vouches for.
	vouched map[slot]bool
}

func newWalk(t *testing.T, seed uint64) *walk {
	return &walk{t: t, random: rand.New(rand.NewPCG(seed, 0)), now: t0, engine: New(catalogue, here),
		before: make(map[string]fault.Finding), vouched: make(map[slot]bool)}
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func (w *walk) observation() Observation {
	rows := catalogue.Rows()
	row := rows[w.random.IntN(len(rows))]
	o := Observation{
		Time: w.now.Add(-time.Duration(w.random.IntN(3)) * time.Second), Source: row.RaisedBy[0], Kind: row.Kind,
		Subject:   gpuAt(pick(w.random, "0000:53:00", "0000:54:00")),
		State:     pick(w.random, fault.OK, fault.Bad, fault.Bad, fault.Unknown),
		Simulated: w.random.IntN(4) == 0,
	}
	o.Evidence.Authority = pick(w.random, fault.ByNobody, fault.ByKernel, fault.ByDevice)
	o.Evidence.Sequence = uint64(w.random.IntN(50))
	if o.State == fault.OK {
		o.Clear = pick(w.random, "", fault.ClearReading, fault.ClearReading, fault.ClearKernel, fault.ClearReset, fault.ClearReboot)
	}
	return o
}

func (w *walk) run(steps int) {
	for range steps {
		w.now = w.now.Add(pick(w.random, 0, time.Second, 7*time.Second, 40*time.Second))
		switch w.random.IntN(10) {
		case 0:
			w.engine.Tick(w.now)
			w.check("a tick", nil)
		case 1:
			w.engine.Observe(w.now, nil)
			w.check("nothing", nil)
		case 2:
			restored := New(catalogue, here)
			if err := restored.Restore(w.engine.Save(), w.now); err != nil {
				w.t.Fatal(err)
			}
			w.engine = restored
			w.check("a restart", nil)
		case 3:
			w.deliver()
		default:
			o := w.observation()
			if o.State == fault.Bad && o.Evidence.Authority != fault.ByNobody {
				w.vouched[slot{o.Kind, o.Subject.Key()}] = true
			}
			w.engine.Observe(w.now, []Observation{o})
			w.check("an observation", &o)
		}
		if w.t.Failed() {
			return
		}
		if next := w.engine.Next(); !next.IsZero() && w.engine.Tick(next) && w.engine.Next().Equal(next) {
			w.t.Errorf("Tick at %s leaves Next at the same time", next)
		}
		w.remember()
	}
}

func (w *walk) deliver() {
	var ended []string
	for _, f := range w.engine.Findings() {
		if f.State == fault.OK && w.random.IntN(2) == 0 {
			ended = append(ended, f.ID)
		}
	}
	w.engine.Delivered(ended)
	for _, id := range ended {
		delete(w.before, id)
	}
	w.check("a delivery", nil)
}

func (w *walk) remember() {
	clear(w.before)
	for _, f := range w.engine.Findings() {
		w.before[f.ID] = f
	}
}

// check holds the findings to the invariants. The last event is o, or one that
// is no observation.
func (w *walk) check(event string, o *Observation) {
	w.t.Helper()
	now := make(map[string]fault.Finding)
	for _, f := range w.engine.Findings() {
		now[f.ID] = f
		w.checkFinding(f)
	}
	for id, was := range w.before {
		is, there := now[id]
		if !there {
			w.t.Errorf("after %s: finding %s (%s) is gone", event, id, was.State)
			continue
		}
		about := o != nil && o.Kind == is.Kind && o.Subject.Key() == is.Subject.Key()
		if was.State == fault.Bad && is.State != fault.Bad {
			if !about || o.State != fault.OK || o.Evidence.Authority == fault.ByNobody || !catalogue.Row(is.Kind).Cleared(o.Clear) {
				w.t.Errorf("after %s (%+v): finding %s went from bad to %s", event, o, id, is.State)
			}
		}
		if was.Provisional && !is.Provisional && o != nil && (o.State != fault.Bad || o.Evidence.Authority == fault.ByNobody) {
			if catalogue.Row(is.Kind).Confirm.Hold == 0 { // a hold elapses with time
				w.t.Errorf("after %+v: finding %s is confirmed", o, id)
			}
		}
		if about && o.State == fault.Unknown && was.Provisional && !is.Provisional {
			w.t.Errorf("after an unknown observation finding %s is confirmed", id)
		}
	}
}

func (w *walk) checkFinding(f fault.Finding) {
	w.t.Helper()
	if want := fault.NewID(f.Kind, f.Subject, f.BootID); f.ID != want {
		w.t.Errorf("finding has id %s, want %s", f.ID, want)
	}
	authorises, _ := f.Authorises()
	if authorises && !w.vouched[slot{f.Kind, f.Subject.Key()}] {
		w.t.Errorf("finding %s authorises, though nobody vouched for any observation of it", f.ID)
	}
	if f.State == fault.Bad && !f.Provisional && f.Evidence[0].Authority == fault.ByNobody {
		w.t.Errorf("finding %s is confirmed by nobody's word", f.ID)
	}
	if f.State == fault.OK && f.ClearedBy == nil || f.Count < 1 || len(f.Evidence) == 0 || len(f.Evidence) > firstEvidence+lastEvidence {
		w.t.Errorf("finding %+v is not whole", f)
	}
	if f.SubsumedBy != "" && f.State != fault.Bad {
		w.t.Errorf("finding %s is %s and explained by %s", f.ID, f.State, f.SubsumedBy)
	}
}
