package silence

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/incident"
)

// hyperpod answers for the instances it lists and counts who asks.
type hyperpod struct {
	mu        sync.Mutex
	byID      map[string]incident.Machine
	byNode    map[string]incident.Machine
	asked     []string
	inFlight  int
	mostAtOne int
	takes     time.Duration
}

func (p *hyperpod) answer(ctx context.Context, from map[string]incident.Machine, key string) (incident.Machine, error) {
	p.mu.Lock()
	p.asked = append(p.asked, key)
	p.inFlight++
	p.mostAtOne = max(p.mostAtOne, p.inFlight)
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.inFlight--
		p.mu.Unlock()
	}()
	select {
	case <-time.After(p.takes):
	case <-ctx.Done():
		return incident.Machine{}, ctx.Err()
	}
	m, ok := from[key]
	if !ok {
		return m, fmt.Errorf("%s: %w", key, incident.ErrNotFound)
	}
	return m, nil
}

func (p *hyperpod) Instance(ctx context.Context, id string) (incident.Machine, error) {
	return p.answer(ctx, p.byID, id)
}

func (p *hyperpod) AtNode(ctx context.Context, node string) (incident.Machine, error) {
	return p.answer(ctx, p.byNode, node)
}

func TestWatcherAsksOnlyAboutSuspects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &hyperpod{byID: map[string]incident.Machine{instance: machine("Failure")}}
		w := NewWatcher(catalogue, p, timing, time.Second)
		heard := time.Now()
		sights := func() []Sight {
			down, well, unsure := agreeing(time.Time{}), agreeing(time.Time{}), agreeing(time.Time{})
			down.Heard = heard
			well.Node, well.InstanceID, well.Heard = "well", "i-well", time.Now()
			unsure.Node, unsure.InstanceID, unsure.Heard, unsure.View = "unsure", "i-unsure", heard, nil
			return []Sight{down, well, unsure}
		}
		var findings map[string][]fault.Finding
		for range 150 {
			findings = w.Observe(time.Now(), sights())
			w.Ask(t.Context(), time.Now)
			time.Sleep(time.Second)
		}
		got := map[string]string{}
		for name, f := range findings {
			got[name] = string(f[0].Kind) + " " + state(&f[0])
		}
		want := map[string]string{node: "node.silent confirmed", "unsure": "node.silent unknown"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("findings (-want +got):\n%s", diff)
		}
		for _, asked := range p.asked {
			if asked != instance {
				t.Fatalf("the provider was asked about %q, want only about %q", asked, instance)
			}
		}
		if gone := w.Observe(time.Now(), nil); len(gone) != 0 || len(w.tracked) != 0 {
			t.Errorf("nodes out of sight leave findings %v and %d watches, want none", gone, len(w.tracked))
		}
	})
}

func TestWatcherLooksForTheInstanceThatTookThePlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		successor := incident.Machine{InstanceID: "i-0bbb", Node: node, Status: "Pending"}
		p := &hyperpod{byNode: map[string]incident.Machine{node: successor}}
		w := NewWatcher(catalogue, p, timing, time.Second)
		heard := time.Now()
		sight := agreeing(time.Time{})
		sight.Heard = heard
		var findings map[string][]fault.Finding
		for range 300 {
			findings = w.Observe(time.Now(), []Sight{sight})
			w.Ask(t.Context(), time.Now)
			time.Sleep(time.Second)
		}
		if f := findings[node]; len(f) != 1 || f[0].State != fault.Unknown {
			t.Errorf("findings of a node whose instance was replaced = %+v, want one unknown", f)
		}
	})
}

func TestWatcherBoundsItsQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &hyperpod{takes: time.Hour}
		w := NewWatcher(catalogue, p, timing, time.Second)
		var sights []Sight
		for i := range 500 {
			s := agreeing(time.Time{})
			s.Node, s.InstanceID, s.Heard = fmt.Sprintf("n%d", i), fmt.Sprintf("i-%d", i), time.Now().Add(-time.Hour)
			sights = append(sights, s)
		}
		w.Observe(time.Now(), sights)
		began := time.Now()
		if !w.Ask(t.Context(), time.Now) {
			t.Error("Ask() = false, want true: there were suspects")
		}
		if got := len(p.asked); got != maxAsked {
			t.Errorf("%d questions in a round, want %d", got, maxAsked)
		}
		if p.mostAtOne != maxAskedAtOnce {
			t.Errorf("%d questions at once, want %d", p.mostAtOne, maxAskedAtOnce)
		}
		if took, want := time.Since(began), maxAsked/maxAskedAtOnce*time.Second; took != want {
			t.Errorf("a round with a provider that hangs took %s, want %s", took, want)
		}
		first := map[string]bool{}
		for _, id := range p.asked {
			first[id] = true
		}
		w.Observe(time.Now(), sights)
		p.asked = nil
		w.Ask(t.Context(), time.Now)
		for _, id := range p.asked {
			if first[id] {
				t.Fatalf("%s was asked about again while others never were", id)
			}
		}
	})
}
