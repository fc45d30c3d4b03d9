package silence

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/incident"
)

// Bounds on asking the provider, whose API throttles: DescribeClusterNode is a
// control-plane call, and a cut network makes every node a suspect at once.
const (
	maxAskedAtOnce = 4
	maxAsked       = 64 // per round
)

// Machines is what the watcher needs of the provider.
type Machines interface {
	Instance(ctx context.Context, instanceID string) (incident.Machine, error)
	AtNode(ctx context.Context, node string) (incident.Machine, error)
}

// Watcher keeps the watches of all nodes and asks the provider about those that
// the other two views suspect. It is safe for concurrent use.
type Watcher struct {
	catalogue   *fault.Catalogue
	machines    Machines
	timing      Timing
	callTimeout time.Duration

	mu      sync.Mutex
	tracked map[string]*tracked
}

type tracked struct {
	watch   Watch
	sight   Sight
	suspect bool
}

// NewWatcher gives a watcher of no nodes. The provider has callTimeout for all
// that it is asked about one node.
func NewWatcher(catalogue *fault.Catalogue, machines Machines, timing Timing, callTimeout time.Duration) *Watcher {
	return &Watcher{catalogue: catalogue, machines: machines, timing: timing, callTimeout: callTimeout, tracked: make(map[string]*tracked)}
}

// Observe judges every node in sight (Sight.Answer is filled in by the
// watcher), forgets the others, and gives the findings by node.
func (w *Watcher) Observe(now time.Time, sights []Sight) map[string][]fault.Finding {
	w.mu.Lock()
	defer w.mu.Unlock()
	findings := make(map[string][]fault.Finding)
	inSight := make(map[string]*tracked, len(sights))
	for _, s := range sights {
		t := w.tracked[s.Node]
		if t == nil {
			t = &tracked{watch: Watch{Since: now}}
		}
		inSight[s.Node] = t
		if t.sight.InstanceID == s.InstanceID {
			s.Answer = t.sight.Answer
		}
		t.sight = s
		t.suspect = Suspect(t.watch, s, w.timing, now)
		t.watch = Decide(w.catalogue, t.watch, s, w.timing, now)
		if f := t.watch.Findings(); len(f) > 0 {
			findings[s.Node] = f
		}
	}
	w.tracked = inSight
	return findings
}

// Ask asks the provider about the suspects, those with the oldest answers
// first, and reports whether there were any.
func (w *Watcher) Ask(ctx context.Context, now func() time.Time) bool {
	suspects := w.suspects()
	var asking sync.WaitGroup
	turn := make(chan struct{}, maxAskedAtOnce)
	for _, s := range suspects {
		asking.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			machine, err := w.ask(ctx, s)
			w.answered(s, Answer{At: now(), Machine: machine, Err: err})
		})
	}
	asking.Wait()
	return len(suspects) > 0
}

func (w *Watcher) suspects() []Sight {
	w.mu.Lock()
	defer w.mu.Unlock()
	var suspects []Sight
	for _, t := range w.tracked {
		if t.suspect {
			suspects = append(suspects, t.sight)
		}
	}
	slices.SortFunc(suspects, func(a, b Sight) int { return a.Answer.At.Compare(b.Answer.At) })
	return suspects[:min(len(suspects), maxAsked)]
}

// ask gives the provider's view of the instance, or, if it has none or the
// instance is not known, of the one that now carries the node's name.
func (w *Watcher) ask(ctx context.Context, s Sight) (incident.Machine, error) {
	ctx, cancel := context.WithTimeout(ctx, w.callTimeout)
	defer cancel()
	if s.InstanceID != "" {
		machine, err := w.machines.Instance(ctx, s.InstanceID)
		if !errors.Is(err, incident.ErrNotFound) {
			return machine, err
		}
	}
	return w.machines.AtNode(ctx, s.Node)
}

func (w *Watcher) answered(asked Sight, a Answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t := w.tracked[asked.Node]; t != nil && t.sight.InstanceID == asked.InstanceID {
		t.sight.Answer = a
	}
}
