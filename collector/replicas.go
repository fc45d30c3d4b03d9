package collector

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/evenkeel/evenkeel/collector/api"
	"github.com/evenkeel/evenkeel/collector/cache"
	"github.com/evenkeel/evenkeel/collector/correlate"
	"github.com/evenkeel/evenkeel/collector/engine"
	"github.com/evenkeel/evenkeel/collector/expert"
)

// replicaKey names a replica of a model.
type replicaKey struct{ model, replica string }

// replica is what is known about one replica.
type replica struct {
	key     replicaKey
	load    *window        // the newest posted window, nil for none
	ledger  *cache.Ledger  // nil without targets
	targets []*targetState // by address
}

// window is a posted window, measured. It is never changed; a judged copy takes
// its place.
type window struct {
	received    time.Time
	load        header
	ranks       []expert.Rank
	fingerprint uint64
	balance     expert.Balance
	verdicts    []correlate.Verdict // by rank as in ranks, nil until judged
}

// header is what is kept of a post beside its matrices.
type header struct {
	job           string
	windowSeconds float64
	generation    uint64
	topK          int
}

// targetState is what is known about one endpoint.
type targetState struct {
	target   engine.Target
	scraped  bool // at least once
	lastGood time.Time
	way      string
	err      error // of the last scrape
	engines  map[string]bool
}

// replicas is everything that is known, by replica. It is safe for concurrent
// use.
type replicas struct {
	config *Config

	mu sync.Mutex
	by map[replicaKey]*replica
}

func newReplicas(c *Config) *replicas {
	return &replicas{config: c, by: make(map[replicaKey]*replica)}
}

// get gives the replica, new if need be.
func (r *replicas) get(key replicaKey) *replica {
	one := r.by[key]
	if one == nil {
		one = &replica{key: key}
		r.by[key] = one
	}
	return one
}

// accept keeps a measured window. The generation must not fall while the last
// window holds: an older one is a late post. A replica that went silent for
// longer may have restarted, and begins anew.
func (r *replicas) accept(key replicaKey, w *window) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forgetStale(w.received)
	held := r.by[key]
	if held == nil && len(r.by) >= r.config.ExpertLoad.MaxReplicas {
		return api.ErrFull
	}
	if held != nil && held.load != nil {
		last := held.load
		switch {
		case w.load.generation < last.load.generation:
			return &api.StaleGeneration{Held: last.load.generation, Got: w.load.generation}
		case w.load.generation == last.load.generation && w.fingerprint != last.fingerprint:
			return api.ErrPlacement
		}
	}
	r.get(key).load = w
	return nil
}

// judged replaces a window by its judged copy, unless a newer one came.
func (r *replicas) judged(key replicaKey, before, after *window) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if one := r.by[key]; one != nil && one.load == before {
		one.load = after
	}
}

// window gives the newest window that holds, nil for none.
func (r *replicas) window(key replicaKey, now time.Time) *window {
	r.mu.Lock()
	defer r.mu.Unlock()
	if one := r.by[key]; one != nil && one.load != nil && now.Sub(one.load.received) <= r.config.ExpertLoad.StaleAfter {
		return one.load
	}
	return nil
}

// forgetStale drops windows that no longer hold and replicas of which nothing
// is left.
func (r *replicas) forgetStale(now time.Time) {
	for key, one := range r.by {
		if one.load != nil && now.Sub(one.load.received) > r.config.ExpertLoad.StaleAfter {
			one.load = nil
		}
		if one.load == nil && len(one.targets) == 0 {
			delete(r.by, key)
		}
	}
}

// retarget makes the endpoints exactly those.
func (r *replicas) retarget(targets []engine.Target) {
	r.mu.Lock()
	defer r.mu.Unlock()
	wanted := make(map[engine.Target]bool, len(targets))
	for _, t := range targets {
		wanted[t] = true
	}
	for _, one := range r.by {
		one.targets = slices.DeleteFunc(one.targets, func(s *targetState) bool {
			if wanted[s.target] {
				delete(wanted, s.target)
				return false
			}
			for engine := range s.engines {
				one.ledger.Forget(ledgerKey(s.target, engine))
			}
			return true
		})
		if len(one.targets) == 0 {
			one.ledger = nil
		}
	}
	for _, t := range targets {
		if !wanted[t] {
			continue
		}
		one := r.get(replicaKey{t.Model, t.Replica})
		if one.ledger == nil {
			one.ledger = cache.NewLedger(r.config.KVCache.Window)
		}
		one.targets = append(one.targets, &targetState{target: t, engines: make(map[string]bool)})
		slices.SortFunc(one.targets, func(a, b *targetState) int { return cmp.Compare(a.target.Address, b.target.Address) })
	}
}

func ledgerKey(t engine.Target, engine string) string { return t.URL + " " + engine }

// scraped takes the result of a scrape. It returns the first reading that the
// ledger refused.
func (r *replicas) scraped(result engine.Result) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	one := r.by[replicaKey{result.Target.Model, result.Target.Replica}]
	if one == nil {
		return nil // dropped while the scrape was under way
	}
	i := slices.IndexFunc(one.targets, func(s *targetState) bool { return s.target == result.Target })
	if i < 0 {
		return nil
	}
	state := one.targets[i]
	state.scraped, state.err = true, result.Err
	if result.Err != nil {
		return nil
	}
	state.lastGood = result.At
	for _, reading := range result.Readings {
		state.way = reading.Way
		state.engines[reading.Engine] = true
		if err := one.ledger.Observe(ledgerKey(result.Target, reading.Engine), reading.Reading); err != nil {
			state.err = err
		}
	}
	return state.err
}

// each calls f with every replica, in order of model and replica, after what no
// longer holds was dropped. f must not keep what it is given.
func (r *replicas) each(now time.Time, f func(*replica)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forgetStale(now)
	keys := slices.SortedFunc(maps.Keys(r.by), func(a, b replicaKey) int {
		return cmp.Or(cmp.Compare(a.model, b.model), cmp.Compare(a.replica, b.replica))
	})
	for _, key := range keys {
		f(r.by[key])
	}
}

// list is the answer of /v1/replicas.
func (r *replicas) list(now time.Time) api.ReplicaList {
	list := api.ReplicaList{Cluster: r.config.Cluster, GeneratedAt: now, Replicas: []api.Replica{}}
	r.each(now, func(one *replica) {
		view := api.Replica{Model: one.key.model, Replica: one.key.replica}
		if one.load != nil {
			view.ExpertLoad = one.load.summary()
			view.Ranks = one.load.rankViews()
		}
		if one.ledger != nil {
			view.KVCache = one.kvCache(r.config.KVCache.Window, now)
		}
		list.Replicas = append(list.Replicas, view)
	})
	return list
}

func (w *window) summary() *api.ExpertLoad {
	s := &api.ExpertLoad{
		Job: w.load.job, ReceivedAt: w.received, WindowSeconds: w.load.windowSeconds, Generation: w.load.generation, TopK: w.load.topK,
		MeanOfRatios: defined(w.balance.MeanOfRatios()), RatioOfSums: defined(w.balance.RatioOfSums()), HotExperts: w.balance.Hot,
	}
	for _, l := range w.balance.Layers {
		s.LayerBalancedness = append(s.LayerBalancedness, defined(l.Balancedness()))
	}
	return s
}

func (w *window) rankViews() []api.Rank {
	views := make([]api.Rank, len(w.ranks))
	for i, r := range w.ranks {
		views[i] = api.Rank{Rank: r.Rank, Node: r.Node, DeviceUUID: r.DeviceUUID, Assignments: w.balance.Ranks[i].Assignments, Seconds: r.Seconds}
		if w.verdicts != nil {
			views[i].Verdict = &w.verdicts[i]
		}
	}
	return views
}

func (one *replica) kvCache(length time.Duration, now time.Time) *api.KVCache {
	account := one.ledger.Window(now)
	view := &api.KVCache{
		WindowSeconds: length.Seconds(), Tokens: account.Tokens, QueryTokens: account.Tokens.Queries(), HitTokens: account.Tokens.Hits(),
		HitRatio: defined(account.HitRatio()), Restarts: one.ledger.Restarts(),
	}
	if account.Checked {
		view.GapTokens = &account.Gap
	}
	for _, s := range one.targets {
		t := api.Target{Address: s.target.Address, Up: s.up(), Way: s.way}
		if !s.lastGood.IsZero() {
			age := now.Sub(s.lastGood).Seconds()
			t.AgeSeconds = &age
		}
		if s.err != nil {
			t.Error = s.err.Error()
		}
		view.Targets = append(view.Targets, t)
	}
	return view
}

// up is true if the last scrape gave readings.
func (s *targetState) up() bool { return s.scraped && s.err == nil }

// defined turns a figure that may be undefined into one that may be absent.
func defined(v float64, ok bool) *float64 {
	if !ok {
		return nil
	}
	return &v
}
