package guard

import (
	"fmt"
	"slices"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// Sighting is one finding of one node that is bad now.
type Sighting struct {
	Node   string
	Family fault.Family
	// Since is when the remediator first saw it.
	Since time.Time
}

// FindTogether gives, per family, the largest number of nodes whose faults began
// within window of each other, where that is at least limit. Faults that stand
// for long and began apart have no common cause, however many they are.
func FindTogether(sightings []Sighting, limit int, window time.Duration) map[fault.Family]int {
	families := make(map[fault.Family][]Sighting)
	for _, s := range sightings {
		families[s.Family] = append(families[s.Family], s)
	}
	together := make(map[fault.Family]int)
	for family, of := range families {
		if n := mostWithin(of, window); n >= limit {
			together[family] = n
		}
	}
	return together
}

// mostWithin slides a window over the beginnings and counts distinct nodes.
func mostWithin(sightings []Sighting, window time.Duration) int {
	slices.SortFunc(sightings, func(a, b Sighting) int { return a.Since.Compare(b.Since) })
	most, first := 0, 0
	inside := make(map[string]int)
	for _, s := range sightings {
		inside[s.Node]++
		for s.Since.Sub(sightings[first].Since) > window {
			gone := sightings[first].Node
			if inside[gone]--; inside[gone] == 0 {
				delete(inside, gone)
			}
			first++
		}
		most = max(most, len(inside))
	}
	return most
}

// CommonCause holds every node of a family that many nodes have faults of, until
// the evidence has cleared and the window has passed since.
type CommonCause struct{ Window time.Duration }

// Check implements [Guard].
func (g CommonCause) Check(r *Request) (Hold, bool) {
	last, ok := r.Fleet.Together[r.Evidence.Family]
	if !ok || !r.Now.Before(last.Add(g.Window)) {
		return allow()
	}
	return Hold{
		Guard:  "common_cause",
		Reason: fmt.Sprintf("many nodes have %s faults at once: that is not the nodes' fault", r.Evidence.Family),
		Until:  last.Add(g.Window),
	}, true
}

// CommonCauseWait holds findings of some families for a moment, so that other
// nodes' can show up.
type CommonCauseWait struct {
	Families []fault.Family
	Wait     time.Duration
}

// Check implements [Guard].
func (g CommonCauseWait) Check(r *Request) (Hold, bool) {
	until := r.Evidence.Since.Add(g.Wait)
	if !slices.Contains(g.Families, r.Evidence.Family) || !r.Now.Before(until) {
		return allow()
	}
	return Hold{
		Guard:  "common_cause_wait",
		Reason: fmt.Sprintf("%s faults wait, in case that other nodes have them as well", r.Evidence.Family),
		Until:  until,
	}, true
}
