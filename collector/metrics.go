package collector

import (
	"cmp"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/evenkeel/evenkeel/collector/api"
	"github.com/evenkeel/evenkeel/collector/correlate"
)

// Descriptions of what is exported per replica. Every figure is computed when it
// is asked for, so one that is no longer known is no longer there.
var (
	replicaLabels = []string{"cluster", "model", "replica"}

	queryTokens = desc("evenkeel_kv_cache_query_tokens_total", "Prompt tokens asked for, since the collector first saw the engines.")
	hitTokens   = desc("evenkeel_kv_cache_hit_tokens_total", "Prompt tokens supplied by a cache, by tier: the engine's own device memory, or external to it.", "tier")
	hitRatio    = desc("evenkeel_kv_cache_hit_ratio", "Hit tokens over query tokens in the window kv_cache.window. Do not average it; divide sums of the counters.")
	gapTokens   = desc("evenkeel_kv_cache_gap_tokens", "The engines' own total of prompt tokens less the sum of the tiers, in the window. Not zero means that a token was counted twice or not at all.")
	restarts    = desc("evenkeel_kv_cache_engine_restarts_total", "Times that an engine's counters began again.")

	layerBalancedness = desc("evenkeel_moe_layer_balancedness_ratio", "Mean over maximum of the ranks' assignments in a layer, in the newest window.", "layer")
	balancedness      = desc("evenkeel_moe_balancedness_ratio", "Balancedness over all layers: the mean of the layers' ratios, or the ratio of the layers' sums.", "method")
	rankTokens        = desc("evenkeel_moe_rank_tokens", "Load of a rank in the newest window, in top-k assignments over all layers.", "rank", "node")
	expertShare       = desc("evenkeel_moe_expert_share_ratio", "Share that one of the hottest experts has of its layer's assignments; hotness 1 is the hottest. /v1/replicas names them.", "hotness")
	windowAge         = desc("evenkeel_moe_window_age_seconds", "Time since the newest window of expert load arrived.")
	placement         = desc("evenkeel_moe_placement_generation", "Generation of the expert placement in the newest window.")
	ranksFolded       = desc("evenkeel_moe_ranks_folded", "Ranks of the newest window that are not exported, because of expert_load.ranks_exported.")
	rankVerdict       = desc("evenkeel_rank_verdict", "1 for the verdict on a rank in the newest window: busy (slow by its load), sick (slower than its load explains, with evidence against its device or node), both, normal, unknown.", "rank", "node", "verdict")

	scrapeUp  = prometheus.NewDesc("evenkeel_collector_scrape_up", "1 if the last scrape of the engine gave its token series.", []string{"cluster", "target"}, nil)
	scrapeAge = prometheus.NewDesc("evenkeel_collector_scrape_age_seconds", "Time since the last scrape of the engine that gave its token series; absent if none did.", []string{"cluster", "target"}, nil)
	sourceUp  = prometheus.NewDesc("evenkeel_collector_source_up", "1 if the source of health answered when it was last asked.", []string{"cluster", "source"}, nil)
	sourceAge = prometheus.NewDesc("evenkeel_collector_source_age_seconds", "Time since the source of health last answered.", []string{"cluster", "source"}, nil)
	fileUp    = prometheus.NewDesc("evenkeel_collector_target_file_up", "1 if the target file could be read and is well-formed. If not, the last good one is in force.", []string{"cluster"}, nil)
	targets   = prometheus.NewDesc("evenkeel_collector_targets", "Engines that are scraped.", []string{"cluster"}, nil)
	scrapes   = prometheus.NewDesc("evenkeel_collector_scrapes_total", "Scrapes of engines, by result: ok, error, or no_series where the engine answered without any token series that is known.", []string{"cluster", "result"}, nil)
	posts     = prometheus.NewDesc("evenkeel_collector_expert_load_posts_total", "Posts of expert load, by result.", []string{"cluster", "result"}, nil)
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append(slices.Clone(replicaLabels), labels...), nil)
}

// Results of a scrape.
const (
	scrapeOK       = "ok"
	scrapeError    = "error"
	scrapeNoSeries = "no_series"
)

// postAccepted is the result of a post that was taken; the others are
// api.Refusals.
const postAccepted = "accepted"

// metrics is what the collector exports. It implements prometheus.Collector.
type metrics struct {
	config   *Config
	replicas *replicas
	now      func() time.Time

	mu      sync.Mutex
	counts  map[*prometheus.Desc]map[string]float64
	sources map[string]sourceState
	file    *bool // nil until the target file was first read
}

type sourceState struct {
	up       bool
	answered time.Time
}

func newMetrics(c *Config, r *replicas, now func() time.Time) *metrics {
	m := &metrics{config: c, replicas: r, now: now, sources: make(map[string]sourceState)}
	m.counts = map[*prometheus.Desc]map[string]float64{
		scrapes: {scrapeOK: 0, scrapeError: 0, scrapeNoSeries: 0},
		posts:   {postAccepted: 0},
	}
	for _, refusal := range api.Refusals() {
		m.counts[posts][string(refusal)] = 0
	}
	return m
}

func (m *metrics) count(d *prometheus.Desc, result string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts[d][result]++
}

// source notes that a source was asked.
func (m *metrics) source(name string, up bool, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sources[name]
	s.up = up
	if up {
		s.answered = now
	}
	m.sources[name] = s
}

func (m *metrics) targetFile(good bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.file = &good
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		queryTokens, hitTokens, hitRatio, gapTokens, restarts, layerBalancedness, balancedness, rankTokens, expertShare, windowAge, placement,
		ranksFolded, rankVerdict, scrapeUp, scrapeAge, sourceUp, sourceAge, fileUp, targets, scrapes, posts,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. It never waits for a source.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	e := exporter{ch: ch, cluster: m.config.Cluster}
	now := m.now()
	n := 0
	m.replicas.each(now, func(one *replica) {
		n += len(one.targets)
		e.replica(m.config, one, now)
	})
	e.gauge(targets, float64(n))

	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range []*prometheus.Desc{scrapes, posts} {
		for result, v := range m.counts[d] {
			e.counter(d, v, result)
		}
	}
	for name, s := range m.sources {
		e.gauge(sourceUp, bit(s.up), name)
		if !s.answered.IsZero() {
			e.gauge(sourceAge, now.Sub(s.answered).Seconds(), name)
		}
	}
	if m.file != nil {
		e.gauge(fileUp, bit(*m.file))
	}
}

// exporter sends metrics with the labels that all have.
type exporter struct {
	ch      chan<- prometheus.Metric
	cluster string
}

func (e exporter) gauge(d *prometheus.Desc, v float64, labels ...string) {
	e.ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{e.cluster}, labels...)...)
}

func (e exporter) counter(d *prometheus.Desc, v float64, labels ...string) {
	e.ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, append([]string{e.cluster}, labels...)...)
}

// maybe exports a figure unless it is undefined.
func (e exporter) maybe(d *prometheus.Desc, v float64, ok bool, labels ...string) {
	if ok {
		e.gauge(d, v, labels...)
	}
}

func (e exporter) replica(c *Config, one *replica, now time.Time) {
	if one.ledger != nil {
		e.kvCache(c, one, now)
	}
	for _, s := range one.targets {
		if s.scraped {
			e.gauge(scrapeUp, bit(s.up()), s.target.Address)
		}
		if !s.lastGood.IsZero() {
			e.gauge(scrapeAge, now.Sub(s.lastGood).Seconds(), s.target.Address)
		}
	}
	if one.load != nil {
		e.load(c, one.key, one.load, now)
	}
}

// kvCache exports the ledger of a replica of which any engine was read within
// the window. A counter that merely stands still would say that nothing was
// asked for.
func (e exporter) kvCache(c *Config, one *replica, now time.Time) {
	current := slices.ContainsFunc(one.targets, func(s *targetState) bool {
		return !s.lastGood.IsZero() && now.Sub(s.lastGood) <= c.KVCache.Window
	})
	if !current {
		return
	}
	model, name := one.key.model, one.key.replica
	total, account := one.ledger.Total(), one.ledger.Window(now)
	e.counter(queryTokens, total.Queries(), model, name)
	e.counter(hitTokens, total.Device, model, name, "device")
	e.counter(hitTokens, total.External, model, name, "external")
	e.counter(restarts, float64(one.ledger.Restarts()), model, name)
	ratio, ok := account.HitRatio()
	e.maybe(hitRatio, ratio, ok, model, name)
	e.maybe(gapTokens, account.Gap, account.Checked, model, name)
}

func (e exporter) load(c *Config, key replicaKey, w *window, now time.Time) {
	model, name := key.model, key.replica
	e.gauge(windowAge, now.Sub(w.received).Seconds(), model, name)
	e.gauge(placement, float64(w.load.generation), model, name)
	for i, l := range w.balance.Layers {
		v, ok := l.Balancedness()
		e.maybe(layerBalancedness, v, ok, model, name, strconv.Itoa(i))
	}
	mean, ok := w.balance.MeanOfRatios()
	e.maybe(balancedness, mean, ok, model, name, "mean_of_ratios")
	sums, ok := w.balance.RatioOfSums()
	e.maybe(balancedness, sums, ok, model, name, "ratio_of_sums")
	for i, h := range w.balance.Hot {
		e.gauge(expertShare, h.Share, model, name, strconv.Itoa(i+1))
	}
	exported := w.exported(c.ExpertLoad.RanksExported)
	e.gauge(ranksFolded, float64(len(w.ranks)-len(exported)), model, name)
	for _, i := range exported {
		r := w.ranks[i]
		rank := strconv.Itoa(r.Rank)
		e.gauge(rankTokens, w.balance.Ranks[i].Assignments, model, name, rank, r.Node)
		if w.verdicts != nil {
			e.gauge(rankVerdict, 1, model, name, rank, r.Node, string(w.verdicts[i].Word))
		}
	}
}

// exported chooses the ranks that become series: all if they are few enough,
// else those that are not normal first, then the most loaded.
func (w *window) exported(limit int) []int {
	chosen := make([]int, len(w.ranks))
	for i := range chosen {
		chosen[i] = i
	}
	if len(chosen) <= limit {
		return chosen
	}
	normal := func(i int) int {
		if w.verdicts == nil || w.verdicts[i].Word == correlate.Normal {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(chosen, func(a, b int) int {
		return cmp.Or(cmp.Compare(normal(a), normal(b)), cmp.Compare(w.balance.Ranks[b].Assignments, w.balance.Ranks[a].Assignments))
	})
	return chosen[:limit]
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
