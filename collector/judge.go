package collector

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/evenkeel/evenkeel/collector/correlate"
	"github.com/evenkeel/evenkeel/collector/expert"
	"github.com/evenkeel/evenkeel/internal/fault"
)

// nodeSource tells the health of nodes.
type nodeSource interface {
	Nodes(ctx context.Context) (*fault.NodeList, error)
}

// deviceSource tells the current numbers of devices and the processes on them.
type deviceSource interface {
	Devices(ctx context.Context, uuids []string, now time.Time) (map[string]correlate.Device, error)
	Processes(ctx context.Context, uuids []string, now time.Time) ([]correlate.Sighting, error)
}

// Bounds on what one window may ask of the store.
const (
	maxSuspects = 64
	maxPeers    = 16
)

// judges is how many windows are judged at once.
const judges = 4

// judge gives verdicts on windows as they come.
type judge struct {
	config    *Config
	replicas  *replicas
	catalogue *fault.Catalogue
	devices   deviceSource // nil for none
	metrics   *metrics
	logger    *slog.Logger

	mu        sync.Mutex
	witness   correlate.Witness
	reported  correlate.Sightings
	queued    map[replicaKey]bool
	windows   chan replicaKey
	storeDown bool
}

func newJudge(c *Config, r *replicas, devices deviceSource, m *metrics, logger *slog.Logger) *judge {
	return &judge{
		config: c, replicas: r, catalogue: fault.NewCatalogue(fault.DefaultTiming()), devices: devices, metrics: m, logger: logger,
		witness: correlate.Witness{StaleAfter: c.Nodes.StaleAfter()}, reported: correlate.Sightings{},
		queued: make(map[replicaKey]bool), windows: make(chan replicaKey, c.ExpertLoad.MaxReplicas),
	}
}

// learn takes the newest list of nodes.
func (j *judge) learn(list *fault.NodeList, now time.Time) {
	w := correlate.Witness{Nodes: list, At: now, StaleAfter: j.config.Nodes.StaleAfter()}
	reported := w.Reported()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.witness, j.reported = w, reported
}

// enqueue asks for the replica's newest window to be judged. A replica waits
// once, however many windows come meanwhile.
func (j *judge) enqueue(key replicaKey) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.queued[key] {
		return
	}
	select {
	case j.windows <- key:
		j.queued[key] = true
	default: // more replicas than are known: the next window asks again
	}
}

// run judges until ctx ends.
func (j *judge) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case key := <-j.windows:
			j.mu.Lock()
			delete(j.queued, key)
			j.mu.Unlock()
			if w := j.replicas.window(key, time.Now()); w != nil {
				j.replicas.judged(key, w, j.verdicts(ctx, w, time.Now()))
			}
		}
	}
}

// verdicts gives a judged copy of the window.
func (j *judge) verdicts(ctx context.Context, w *window, now time.Time) *window {
	ranks := make([]correlate.Rank, len(w.ranks))
	for i, r := range w.ranks {
		ranks[i] = correlate.Rank{Rank: r.Rank, Group: w.balance.Ranks[i].Group, Load: w.balance.Ranks[i].Assignments, Seconds: r.Seconds}
	}
	comparisons := correlate.Compare(j.config.Verdict, ranks)

	j.mu.Lock()
	witness, reported := j.witness, j.reported
	j.mu.Unlock()
	if now.Sub(witness.At) > witness.StaleAfter {
		reported = correlate.Sightings{}
	}
	numbers := j.measure(ctx, w, comparisons, reported, now)

	judged := *w
	judged.verdicts = make([]correlate.Verdict, len(w.ranks))
	for i, c := range comparisons {
		presence := correlate.Locate(claim(w, i), reported, numbers.seen)
		health := correlate.Health{State: fault.Unknown, Reasons: []string{"not looked into: the rank is not slow"}}
		if c.Slow && !presence.Disputed {
			health = j.health(w, i, presence, witness, numbers, comparisons, now)
		}
		word, reasons := correlate.Judge(c, presence, health)
		judged.verdicts[i] = correlate.Verdict{
			Word: word, Reasons: reasons, Numbers: c, Health: health, WindowSeconds: w.load.windowSeconds, At: w.received,
		}
	}
	return &judged
}

// claim is where the post says that the rank computes.
func claim(w *window, i int) correlate.Place {
	r := w.ranks[i]
	return correlate.Place{Job: w.load.job, Rank: r.Rank, Node: r.Node, DeviceUUID: r.DeviceUUID}
}

// measurements is what the store says about the suspects and some of their
// peers.
type measurements struct {
	devices map[string]correlate.Device
	seen    correlate.Sightings
	// peers are the ranks that each group's suspects are compared with.
	peers map[int][]int
	err   error
}

// measure asks the store about the slow ranks and a few others of their groups.
// A window without a slow rank asks nothing.
func (j *judge) measure(ctx context.Context, w *window, comparisons []correlate.Comparison, reported correlate.Sightings, now time.Time) measurements {
	m := measurements{seen: correlate.Sightings{}, peers: make(map[int][]int)}
	var suspects []int
	for i, c := range comparisons {
		if c.Slow {
			suspects = append(suspects, i)
		}
	}
	if len(suspects) == 0 || j.devices == nil {
		return m
	}
	// The slowest first, where there are too many to ask about.
	slices.SortStableFunc(suspects, func(a, b int) int { return cmp.Compare(comparisons[b].Time, comparisons[a].Time) })
	suspects = suspects[:min(len(suspects), maxSuspects)]
	for _, i := range suspects {
		m.peers[comparisons[i].Group] = nil
	}
	for i, c := range comparisons {
		if peers, asked := m.peers[c.Group]; asked && c.Comparable && !c.Slow && len(peers) < maxPeers {
			m.peers[c.Group] = append(peers, i)
		}
	}
	device := func(i int) string { return correlate.Locate(claim(w, i), reported).DeviceUUID }
	var asked, slow []string
	for _, i := range suspects {
		if uuid := device(i); uuid != "" {
			slow = append(slow, uuid)
		}
	}
	asked = slices.Clone(slow)
	for _, peers := range m.peers {
		for _, i := range peers {
			if uuid := device(i); uuid != "" {
				asked = append(asked, uuid)
			}
		}
	}
	slices.Sort(asked)
	asked = slices.Compact(asked)
	ctx, cancel := context.WithTimeout(ctx, j.config.Store.Timeout)
	defer cancel()
	var seen []correlate.Sighting
	if m.devices, m.err = j.devices.Devices(ctx, asked, now); m.err == nil {
		seen, m.err = j.devices.Processes(ctx, slow, now)
	}
	m.seen.Add(seen...)
	j.noteStore(m.err)
	return m
}

// health joins what the witnesses say about the device of a slow rank.
func (j *judge) health(w *window, i int, presence correlate.Presence, witness correlate.Witness, m measurements, comparisons []correlate.Comparison, now time.Time) correlate.Health {
	if !presence.Agreed {
		return correlate.Health{State: fault.Unknown, Reasons: []string{presence.Reason}}
	}
	place := claim(w, i)
	place.DeviceUUID = presence.DeviceUUID
	device := m.devices[place.DeviceUUID]
	node := correlate.Health{State: fault.Unknown}
	if status, why := witness.Status(place.Node, now); status == nil {
		node.Reasons = []string{why}
	} else {
		node = correlate.NodeHealth(j.catalogue, status, place, device.PCI)
	}
	switch {
	case j.devices == nil:
		return node
	case m.err != nil:
		return correlate.Combine(node, correlate.Health{State: fault.Unknown, Reasons: []string{"the metric store does not answer: " + m.err.Error()}})
	}
	var peers []correlate.Device
	for _, p := range m.peers[comparisons[i].Group] {
		if d, ok := m.devices[correlate.Locate(claim(w, p), m.seen).DeviceUUID]; ok {
			peers = append(peers, d)
		}
	}
	return correlate.Combine(node, correlate.DeviceHealth(j.config.Verdict, device, peers))
}

func (j *judge) noteStore(err error) {
	j.metrics.source("store", err == nil, time.Now())
	j.mu.Lock()
	defer j.mu.Unlock()
	if down := err != nil; down != j.storeDown {
		j.storeDown = down
		if down {
			j.logger.Warn("The metric store does not answer; device numbers are unknown.", "err", err)
		} else {
			j.logger.Info("The metric store answers again.")
		}
	}
}

// measured turns a post into a window.
func measured(l *expert.Load, hot int, now time.Time) *window {
	return &window{
		received:    now,
		load:        header{job: l.Job, windowSeconds: l.WindowSeconds, generation: l.Generation, topK: l.TopK},
		ranks:       l.Ranks,
		fingerprint: l.Placement.Fingerprint(),
		balance:     expert.Measure(l, hot),
	}
}
