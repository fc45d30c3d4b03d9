// Package vllm knows what vLLM calls its prompt tokens.
package vllm

import "github.com/evenkeel/evenkeel/collector/engine"

// Mapping is vLLM's.
//
// Since its v1 engine splits prompt tokens by source, that family counts each
// token once and comes first. Before it there are only queries and hits of two
// caches in a row: the external cache is asked for what the device's did not
// have, so its queries are a part of the first ones and must not be added to
// them. Names with "gpu_" are the same counters in releases before 0.9.
func Mapping() *engine.Mapping {
	const bySource = "vllm:prompt_tokens_by_source"
	return &engine.Mapping{
		Engine:  "vllm",
		Split:   []string{"model_name", "engine"},
		Started: []string{"process_start_time_seconds"},
		Ways: []engine.Way{
			{
				Name:     "prompt_tokens_by_source",
				Total:    engine.Series{Name: "vllm:prompt_tokens"},
				Computed: engine.Series{Name: bySource, Label: "source", Value: "local_compute"},
				Device:   engine.Series{Name: bySource, Label: "source", Value: "local_cache_hit"},
				External: engine.Series{Name: bySource, Label: "source", Value: "external_kv_transfer"},
			},
			{
				Name:     "prefix_cache_queries",
				Total:    engine.Series{Name: "vllm:prefix_cache_queries"},
				Device:   engine.Series{Name: "vllm:prefix_cache_hits"},
				External: engine.Series{Name: "vllm:external_prefix_cache_hits"},
			},
			{
				Name:   "gpu_prefix_cache_queries",
				Total:  engine.Series{Name: "vllm:gpu_prefix_cache_queries"},
				Device: engine.Series{Name: "vllm:gpu_prefix_cache_hits"},
			},
		},
	}
}
