package agent

import (
	"slices"
	"sync"
	"time"

	"github.com/evenkeel/evenkeel/agent/health"
	"github.com/evenkeel/evenkeel/agent/report"
	"github.com/evenkeel/evenkeel/agent/snapshot"
	"github.com/evenkeel/evenkeel/agent/source"
	"github.com/evenkeel/evenkeel/internal/fault"
)

// node is everything that the agent holds about its node. All times are
// time.Now's, whose monotonic part makes ages immune to steps of the clock.
type node struct {
	staleAfter time.Duration

	// mu guards everything that follows.
	mu      sync.Mutex
	engine  *health.Engine
	sources []*sourceState // in the order of their names
	// simulated stays set once any source was injected: its findings outlast it.
	simulated bool
}

// sourceState is what one source said last.
type sourceState struct {
	name  string
	batch source.Batch
	// absent marks a source that this agent does not run.
	absent bool
	heard  time.Time // when batch came; zero for never
	// answered is when the source last could vouch for something.
	answered time.Time
	// failure is why the source does not run at the moment; empty while it does.
	failure string
	resume  []byte
	// told is the coverage that the last report was asked to carry.
	told fault.CoverageState
}

// newNode makes a node with the sources that run and those that are absent.
func newNode(engine *health.Engine, staleAfter time.Duration, running, absent []string) *node {
	n := &node{engine: engine, staleAfter: staleAfter}
	for _, name := range running {
		n.sources = append(n.sources, &sourceState{name: name})
	}
	for _, name := range absent {
		n.sources = append(n.sources, &sourceState{name: name, absent: true, told: fault.CoverageAbsent})
	}
	return n
}

func (n *node) source(name string) *sourceState {
	for _, s := range n.sources {
		if s.name == name {
			return s
		}
	}
	return nil
}

// take takes a batch of the named source. News is what a report should carry at
// once; a finding among it also has to be persisted.
func (n *node) take(name string, b source.Batch, now time.Time) (news, findings bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.source(name)
	if s == nil {
		return false, false
	}
	findings = n.engine.Observe(now, b.Observations)
	news = findings || !slices.EqualFunc(s.batch.Processes, b.Processes, sameProcess)
	if b.Simulated && !n.simulated {
		n.simulated, news = true, true
	}
	b.Observations = nil
	s.batch, s.heard, s.failure = b, now, ""
	if b.Coverage != fault.CoverageUnknown {
		s.answered = now
	}
	if b.Resume != nil {
		s.resume = b.Resume
	}
	return n.retell(s, now) || news, findings
}

// fail notes that the named source does not run.
func (n *node) fail(name, why string, now time.Time) (news bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.source(name)
	if s == nil {
		return false
	}
	s.failure = why
	return n.retell(s, now)
}

// retell reports whether the source's coverage differs from what was reported.
func (n *node) retell(s *sourceState, now time.Time) bool {
	state, _ := n.coverage(s, now)
	changed := state != s.told
	s.told = state
	return changed
}

// tick lets time pass.
func (n *node) tick(now time.Time) (news, findings bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	findings = n.engine.Tick(now)
	news = findings
	for _, s := range n.sources {
		news = n.retell(s, now) || news
	}
	return news, findings
}

// next is when tick can have something to say: the engine's next moment, or the
// one at which a silent source goes stale; zero for never.
func (n *node) next() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	next := n.engine.Next()
	for _, s := range n.sources {
		if s.absent || s.heard.IsZero() || s.told == fault.CoverageUnknown {
			continue
		}
		if stale := s.heard.Add(n.staleAfter + time.Nanosecond); next.IsZero() || stale.Before(next) {
			next = stale
		}
	}
	return next
}

// delivered tells the engine which ended findings the remediator has seen.
func (n *node) delivered(ids []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.engine.Delivered(ids)
}

// coverage is what the source can vouch for at the moment, and why not.
func (n *node) coverage(s *sourceState, now time.Time) (fault.CoverageState, string) {
	switch {
	case s.absent:
		return fault.CoverageAbsent, ""
	case s.failure != "":
		return fault.CoverageUnknown, s.failure
	case s.heard.IsZero():
		return fault.CoverageUnknown, "has not answered yet"
	case now.Sub(s.heard) > n.staleAfter:
		return fault.CoverageUnknown, "silent for more than " + n.staleAfter.String()
	case s.batch.Coverage == fault.CoverageOK, s.batch.Coverage == fault.CoverageAbsent:
		return s.batch.Coverage, s.batch.Detail
	}
	return fault.CoverageUnknown, s.batch.Detail
}

// current reports whether the source's last batch is its present word.
func (n *node) current(s *sourceState, now time.Time) bool {
	return !s.absent && s.failure == "" && !s.heard.IsZero() && now.Sub(s.heard) <= n.staleAfter
}

// age is how long ago the source last answered; negative for never.
func (s *sourceState) age(now time.Time) time.Duration {
	if s.answered.IsZero() {
		return -1
	}
	return now.Sub(s.answered)
}

// report gives what a report says.
func (n *node) report(now time.Time) report.State {
	n.mu.Lock()
	defer n.mu.Unlock()
	state := report.State{Findings: n.engine.Findings(), Simulated: n.simulated}
	for _, s := range n.sources {
		coverage := fault.Coverage{Source: s.name, AgeSeconds: -1}
		coverage.State, coverage.Detail = n.coverage(s, now)
		coverage.Detail = fault.Clip(coverage.Detail)
		if age := s.age(now); age >= 0 {
			coverage.AgeSeconds = age.Seconds()
		}
		state.Coverage = append(state.Coverage, coverage)
		if n.current(s, now) {
			state.Jobs = append(state.Jobs, s.batch.Processes...)
		}
	}
	return state
}

// snapshot gives what metrics are made of.
func (n *node) snapshot(now time.Time) snapshot.State {
	n.mu.Lock()
	defer n.mu.Unlock()
	state := snapshot.State{Time: now, Findings: n.engine.Findings()}
	for _, s := range n.sources {
		shown := snapshot.Source{Name: s.name, Age: s.age(now)}
		shown.Coverage, _ = n.coverage(s, now)
		if n.current(s, now) {
			shown.Readings = s.batch.Readings
			state.Processes = append(state.Processes, s.batch.Processes...)
		}
		state.Sources = append(state.Sources, shown)
	}
	return state
}

// saved gives what has to survive a restart: the findings, and for each source
// the place that they include.
func (n *node) saved() (findings []byte, resume map[string][]byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	resume = make(map[string][]byte)
	for _, s := range n.sources {
		if s.resume != nil {
			resume[s.name] = s.resume
		}
	}
	return n.engine.Save(), resume
}

// unheard names the sources that have neither answered nor failed yet.
func (n *node) unheard() (names []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.sources {
		if !s.absent && s.heard.IsZero() && s.failure == "" {
			names = append(names, s.name)
		}
	}
	return names
}

// dropped counts observations that the engine did not take.
func (n *node) dropped() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.engine.Dropped()
}

func sameProcess(a, b fault.Process) bool {
	same := func(x, y *int) bool { return (x == nil) == (y == nil) && (x == nil || *x == *y) }
	return same(a.Rank, b.Rank) && same(a.LocalRank, b.LocalRank) &&
		a.Job == b.Job && a.PID == b.PID && a.DeviceUUID == b.DeviceUUID && a.DeviceIndex == b.DeviceIndex
}
