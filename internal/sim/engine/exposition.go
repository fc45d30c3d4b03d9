package engine

import (
	"bytes"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Bucket bounds as vLLM has them.
var (
	ttftBounds      = []float64{0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560}
	itlBounds       = []float64{0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80}
	e2eBounds       = []float64{0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680}
	tokenBounds     = []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000}
	iterationBounds = []float64{1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384}
)

// histogram counts observations up to each bound.
type histogram struct {
	bounds []float64
	counts []int64 // one more than bounds
	sum    float64
	n      int64
}

func (h *histogram) observe(v float64) {
	if h.counts == nil {
		h.counts = make([]int64, len(h.bounds)+1)
	}
	h.counts[sort.SearchFloat64s(h.bounds, v)]++
	h.sum += v
	h.n++
}

// Exposition is the body of /metrics: the text format as Python's client
// library writes it, counters with "_total" and each counter and histogram with
// a gauge of its creation time.
func (s *Server) Exposition() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &writer{model: s.options.Model, created: s.started}
	w.process(s.started)
	w.gauge("num_requests_running", "Number of requests that are being executed.", s.each(func(c *core) float64 { return float64(c.running) }))
	w.gauge("num_requests_waiting", "Number of requests that wait to be executed.", s.each(func(*core) float64 { return 0 }))
	w.gauge("kv_cache_usage_perc", "KV cache in use; 1 is all of it.", s.each(func(c *core) float64 { return c.device.usage() }))
	w.counter("prefix_cache_queries", "Tokens looked up in the prefix cache.", s.each(func(c *core) float64 { return float64(c.tokens.Computed + c.tokens.Device + c.tokens.External) }))
	w.counter("prefix_cache_hits", "Tokens found in the prefix cache.", s.each(func(c *core) float64 { return float64(c.tokens.Device) }))
	w.counter("external_prefix_cache_queries", "Tokens looked up over the KV connector.", s.each(func(c *core) float64 { return float64(c.externalQueries) }))
	w.counter("external_prefix_cache_hits", "Tokens found over the KV connector.", s.each(func(c *core) float64 { return float64(c.tokens.External) }))
	w.counter("num_preemptions", "Requests that were preempted.", s.each(func(*core) float64 { return 0 }))
	w.counter("prompt_tokens", "Prefill tokens processed.", s.each(func(c *core) float64 { return float64(c.tokens.Computed + c.tokens.Device + c.tokens.External) }))
	w.counter("prompt_tokens_by_source", "Prompt tokens by where they came from.",
		s.labelled("source", "local_compute", func(c *core) float64 { return float64(c.tokens.Computed) }),
		s.labelled("source", "local_cache_hit", func(c *core) float64 { return float64(c.tokens.Device) }),
		s.labelled("source", "external_kv_transfer", func(c *core) float64 { return float64(c.tokens.External) }))
	w.counter("prompt_tokens_cached", "Prompt tokens that were not computed.", s.each(func(c *core) float64 { return float64(c.tokens.Device + c.tokens.External) }))
	w.counter("generation_tokens", "Tokens generated.", s.each(func(c *core) float64 { return float64(c.generation) }))
	w.counter("request_success", "Requests that ended well.",
		s.labelled("finished_reason", "stop", func(c *core) float64 { return float64(c.stopped) }),
		s.labelled("finished_reason", "length", func(c *core) float64 { return float64(c.length) }),
		s.labelled("finished_reason", "abort", func(*core) float64 { return 0 }))
	for _, h := range []struct {
		name, help string
		of         func(c *core) *histogram
	}{
		{"request_prompt_tokens", "Prompt tokens of a request.", func(c *core) *histogram { return &c.prompt }},
		{"request_generation_tokens", "Generated tokens of a request.", func(c *core) *histogram { return &c.output }},
		{"iteration_tokens_total", "Tokens of one engine step.", func(c *core) *histogram { return &c.iteration }},
		{"time_to_first_token_seconds", "Time to the first token, in seconds.", func(c *core) *histogram { return &c.ttft }},
		{"inter_token_latency_seconds", "Time between two tokens, in seconds.", func(c *core) *histogram { return &c.itl }},
		{"e2e_request_latency_seconds", "Time from arrival to end, in seconds.", func(c *core) *histogram { return &c.e2e }},
	} {
		w.family("vllm:"+h.name, h.help, "histogram")
		for i, c := range s.engines {
			w.histogram("vllm:"+h.name, i, h.of(c))
		}
		w.creation("vllm:"+h.name, h.help, s.each(nil))
	}
	w.family("vllm:cache_config_info", "Configuration of the KV cache.", "gauge")
	for i := range s.engines {
		w.line("vllm:cache_config_info", map[string]string{
			"block_size": strconv.Itoa(s.options.BlockTokens), "cache_dtype": "auto", "enable_prefix_caching": "True",
			"engine": strconv.Itoa(i), "gpu_memory_utilization": "0.9", "num_gpu_blocks": strconv.Itoa(s.options.CacheBlocks),
		}, 1)
	}
	return w.Bytes()
}

// sample is one series of a family, without the labels that all have.
type sample struct {
	engine      int
	name, value string // one more label
	v           float64
}

func (s *Server) each(of func(*core) float64) []sample { return s.labelled("", "", of) }

func (s *Server) labelled(name, value string, of func(*core) float64) []sample {
	samples := make([]sample, len(s.engines))
	for i, c := range s.engines {
		samples[i] = sample{engine: i, name: name, value: value}
		if of != nil {
			samples[i].v = of(c)
		}
	}
	return samples
}

// writer writes the text format.
type writer struct {
	bytes.Buffer
	model   string
	created time.Time
}

func (w *writer) family(name, help, kind string) {
	fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func (w *writer) labels(s sample) map[string]string {
	labels := map[string]string{"engine": strconv.Itoa(s.engine), "model_name": w.model}
	if s.name != "" {
		labels[s.name] = s.value
	}
	return labels
}

func (w *writer) gauge(name, help string, samples []sample) {
	name = "vllm:" + name
	w.family(name, help, "gauge")
	for _, s := range samples {
		w.line(name, w.labels(s), s.v)
	}
}

func (w *writer) counter(name, help string, groups ...[]sample) {
	name = "vllm:" + name
	w.family(name+"_total", help, "counter")
	var all []sample
	for _, g := range groups {
		all = append(all, g...)
	}
	for _, s := range all {
		w.line(name+"_total", w.labels(s), s.v)
	}
	w.creation(name, help, all)
}

func (w *writer) creation(name, help string, samples []sample) {
	w.family(name+"_created", help, "gauge")
	for _, s := range samples {
		w.line(name+"_created", w.labels(s), seconds(w.created))
	}
}

func (w *writer) histogram(name string, engine int, h *histogram) {
	labels := w.labels(sample{engine: engine})
	upTo := int64(0)
	for i, bound := range h.bounds {
		if h.counts != nil {
			upTo += h.counts[i]
		}
		labels["le"] = number(bound)
		w.line(name+"_bucket", labels, float64(upTo))
	}
	labels["le"] = "+Inf"
	w.line(name+"_bucket", labels, float64(h.n))
	delete(labels, "le")
	w.line(name+"_count", labels, float64(h.n))
	w.line(name+"_sum", labels, h.sum)
}

func (w *writer) process(started time.Time) {
	w.family("python_info", "Python platform information", "gauge")
	w.line("python_info", map[string]string{"implementation": "CPython", "major": "3", "minor": "12", "patchlevel": "9", "version": "3.12.9"}, 1)
	w.family("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", "gauge")
	w.line("process_start_time_seconds", nil, seconds(started))
	w.family("process_resident_memory_bytes", "Resident memory size in bytes.", "gauge")
	w.line("process_resident_memory_bytes", nil, 3.2e9)
}

// line writes one sample, labels in alphabetical order.
func (w *writer) line(name string, labels map[string]string, v float64) {
	w.WriteString(name)
	if len(labels) > 0 {
		names := make([]string, 0, len(labels))
		for n := range labels {
			names = append(names, n)
		}
		sort.Strings(names)
		for i, n := range names {
			w.WriteByte("{,"[min(i, 1)])
			fmt.Fprintf(w, `%s="%s"`, n, escape.Replace(labels[n]))
		}
		w.WriteByte('}')
	}
	w.WriteByte(' ')
	w.WriteString(number(v))
	w.WriteByte('\n')
}

var escape = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

func seconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

// number writes a value as Python's library does: always with a point, and with
// an exponent from a million on.
func number(v float64) string {
	s := strconv.FormatFloat(v, 'f', -1, 64)
	point := strings.IndexByte(s, '.')
	if point < 0 {
		point = len(s)
		s += ".0"
	}
	if v > 0 && point > 6 {
		mantissa := strings.TrimRight(s[:1]+"."+s[1:point]+s[point+1:], "0.")
		return fmt.Sprintf("%se+%02d", mantissa, point-1)
	}
	return s
}
