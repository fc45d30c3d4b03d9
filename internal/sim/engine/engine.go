// Package engine is an inference engine that serves nobody: it takes a stream
// of made-up requests, keeps the KV blocks of their prompts in a cache of
// limited size, and exposes what vLLM's v1 engine would expose, in its format.
//
// Figures are consequences. Requests share prefixes and the cache is LRU, so a
// hit rate comes out of the sizes; a restart empties the cache and sets every
// counter to zero, and the rate recovers as it would. Nothing sets a metric.
package engine

import (
	"context"
	"math"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// Options says what the engine serves and what is asked of it. Zero fields take
// the values of [DefaultOptions].
type Options struct {
	Model string
	// Engines is the number of data-parallel engines behind the endpoint.
	Engines int
	// BlockTokens is the size of a KV block, CacheBlocks the device's room per
	// engine, ExternalBlocks that of a cache behind a KV connector (0 for no
	// connector).
	BlockTokens    int
	CacheBlocks    int
	ExternalBlocks int
	// RequestsPerSecond arrive at each engine.
	RequestsPerSecond float64
	// Prefixes is how many shared beginnings (system prompts, documents) are in
	// use. Their popularity falls as 1/rank.
	Prefixes     int
	PrefixBlocks int
	// OwnBlocks is the mean length of what is new in a prompt.
	OwnBlocks int
	// OutputTokens is the mean length of an answer.
	OutputTokens int
	Seed         uint64
	// Now is the clock that start times come from.
	Now func() time.Time
}

// DefaultOptions is a small engine whose prefixes fit the cache about half.
func DefaultOptions() Options {
	return Options{
		Model: "deepseek-ai/DeepSeek-V3", Engines: 1, BlockTokens: 16, CacheBlocks: 4000,
		RequestsPerSecond: 20, Prefixes: 200, PrefixBlocks: 32, OwnBlocks: 16, OutputTokens: 200,
		Seed: 1, Now: time.Now,
	}
}

// Server is one endpoint. It is safe for concurrent use.
type Server struct {
	options Options

	mu      sync.Mutex
	started time.Time
	engines []*core
	starts  uint64
}

// New makes an engine that has just started.
func New(o Options) *Server {
	d := DefaultOptions()
	fill(&o.Model, d.Model)
	fill(&o.Engines, d.Engines)
	fill(&o.BlockTokens, d.BlockTokens)
	fill(&o.CacheBlocks, d.CacheBlocks)
	fill(&o.RequestsPerSecond, d.RequestsPerSecond)
	fill(&o.Prefixes, d.Prefixes)
	fill(&o.PrefixBlocks, d.PrefixBlocks)
	fill(&o.OwnBlocks, d.OwnBlocks)
	fill(&o.OutputTokens, d.OutputTokens)
	fill(&o.Seed, d.Seed)
	if o.Now == nil {
		o.Now = d.Now
	}
	s := &Server{options: o}
	s.Restart()
	return s
}

func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Restart is a new process: counters at zero, caches cold, a new start time.
// The external cache survives it, as a remote one does.
func (s *Server) Restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starts++
	s.started = s.options.Now()
	old := s.engines
	s.engines = make([]*core, s.options.Engines)
	for i := range s.engines {
		c := newCore(s.options, rand.New(rand.NewPCG(s.options.Seed+s.starts, uint64(i))))
		if old != nil {
			c.external = old[i].external
		}
		s.engines[i] = c
	}
}

// Step lets dt of requests arrive and be served.
func (s *Server) Step(dt time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.engines {
		c.step(dt.Seconds())
	}
}

// Run steps in real time until ctx ends.
func (s *Server) Run(ctx context.Context) {
	const step = 100 * time.Millisecond
	ticker := time.NewTicker(step)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.Step(step)
		}
	}
}

// Handler serves /metrics and /health.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(s.Exposition()) // the scraper is gone if this fails
	})
	mux.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	return mux
}

// Tokens are the tokens served since the last restart, by the tier that
// supplied them, over all engines.
type Tokens struct{ Computed, Device, External int64 }

// Tokens gives what the counters stand at, for tests to compare with.
func (s *Server) Tokens() Tokens {
	s.mu.Lock()
	defer s.mu.Unlock()
	var t Tokens
	for _, c := range s.engines {
		t.Computed += c.tokens.Computed
		t.Device += c.tokens.Device
		t.External += c.tokens.External
	}
	return t
}

// core is one engine: its caches and what it counted.
type core struct {
	options  Options
	random   *rand.Rand
	device   *lru
	external *lru // nil without connector
	popular  []float64
	due      float64 // requests that have arrived in part
	serial   uint64

	tokens          Tokens
	externalQueries int64
	generation      int64
	stopped, length int64
	running         int
	ttft, itl, e2e  histogram
	prompt, output  histogram
	iteration       histogram
}

func newCore(o Options, random *rand.Rand) *core {
	c := &core{options: o, random: random, device: newLRU(o.CacheBlocks), popular: make([]float64, o.Prefixes)}
	if o.ExternalBlocks > 0 {
		c.external = newLRU(o.ExternalBlocks)
	}
	sum := 0.0
	for i := range c.popular {
		sum += 1 / float64(i+1)
		c.popular[i] = sum
	}
	c.ttft = histogram{bounds: ttftBounds}
	c.itl = histogram{bounds: itlBounds}
	c.e2e = histogram{bounds: e2eBounds}
	c.prompt = histogram{bounds: tokenBounds}
	c.output = histogram{bounds: tokenBounds}
	c.iteration = histogram{bounds: iterationBounds}
	return c
}

func (c *core) step(seconds float64) {
	c.due += seconds * c.options.RequestsPerSecond
	for ; c.due >= 1; c.due-- {
		c.serve()
	}
	if c.e2e.n > 0 { // Little's law
		c.running = int(c.options.RequestsPerSecond * c.e2e.sum / float64(c.e2e.n))
	}
}

// serve takes one request: a shared prefix, then blocks of its own.
func (c *core) serve() {
	c.serial++
	prefix := c.prefix()
	own := 1 + int(c.random.ExpFloat64()*float64(c.options.OwnBlocks))
	total := c.options.PrefixBlocks + own
	block := func(i int) blockID {
		if i < c.options.PrefixBlocks {
			return blockID{shared: true, owner: uint64(prefix), index: i}
		}
		return blockID{owner: c.serial, index: i}
	}
	// A prefix is found up to its first missing block. The last block is computed
	// in any case, because the logits of the last token are needed.
	found := 0
	for found < total-1 && c.device.use(block(found)) {
		found++
	}
	fetched := 0
	if c.external != nil {
		for found+fetched < total-1 && c.external.use(block(found+fetched)) {
			fetched++
		}
		c.externalQueries += int64(total-found) * int64(c.options.BlockTokens)
	}
	for i := found; i < total; i++ {
		c.device.put(block(i))
		if c.external != nil {
			c.external.put(block(i))
		}
	}
	size := int64(c.options.BlockTokens)
	computed := int64(total-found-fetched) * size
	c.tokens.Device += int64(found) * size
	c.tokens.External += int64(fetched) * size
	c.tokens.Computed += computed
	c.answer(int64(total)*size, computed)
}

// Speeds of a served model on one node, in seconds per token: prefill is bound
// by computing, decoding by memory.
const (
	prefillSeconds = 50e-6
	decodeSeconds  = 20e-3
)

func (c *core) answer(prompt, computed int64) {
	output := 1 + int64(c.random.ExpFloat64()*float64(c.options.OutputTokens))
	if output > int64(4*c.options.OutputTokens) {
		output = int64(4 * c.options.OutputTokens)
		c.length++
	} else {
		c.stopped++
	}
	first := 0.02 + float64(computed)*prefillSeconds
	pace := decodeSeconds * math.Exp(0.1*c.random.NormFloat64())
	c.generation += output
	c.ttft.observe(first)
	c.itl.observe(pace)
	c.e2e.observe(first + pace*float64(output-1))
	c.prompt.observe(float64(prompt))
	c.output.observe(float64(output))
	c.iteration.observe(float64(computed))
}

// prefix draws a shared prefix by popularity.
func (c *core) prefix() int {
	x := c.random.Float64() * c.popular[len(c.popular)-1]
	for i, upTo := range c.popular {
		if x < upTo {
			return i
		}
	}
	return len(c.popular) - 1
}

// blockID stands for the hash of a block and all before it.
type blockID struct {
	shared bool
	owner  uint64
	index  int
}
