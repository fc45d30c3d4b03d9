package api

import (
	"time"

	"github.com/evenkeel/evenkeel/collector/cache"
	"github.com/evenkeel/evenkeel/collector/correlate"
	"github.com/evenkeel/evenkeel/collector/expert"
)

// ReplicaList is the body of /v1/replicas. What is not known is absent: no
// figure is ever a stand-in for one.
type ReplicaList struct {
	Cluster     string    `json:"cluster"`
	GeneratedAt time.Time `json:"generated_at"`
	Replicas    []Replica `json:"replicas"`
}

// Replica is all that is known about one replica of a model.
type Replica struct {
	Model      string      `json:"model"`
	Replica    string      `json:"replica"`
	ExpertLoad *ExpertLoad `json:"expert_load,omitempty"`
	KVCache    *KVCache    `json:"kv_cache,omitempty"`
	Ranks      []Rank      `json:"ranks,omitempty"`
}

// ExpertLoad sums the newest window up.
type ExpertLoad struct {
	Job           string    `json:"job,omitempty"`
	ReceivedAt    time.Time `json:"received_at"`
	WindowSeconds float64   `json:"window_seconds"`
	Generation    uint64    `json:"generation"`
	TopK          int       `json:"top_k"`
	// MeanOfRatios and RatioOfSums are the balancedness over all layers.
	MeanOfRatios *float64 `json:"mean_of_ratios,omitempty"`
	RatioOfSums  *float64 `json:"ratio_of_sums,omitempty"`
	// LayerBalancedness is by layer, null for one without load.
	LayerBalancedness []*float64         `json:"layer_balancedness"`
	HotExperts        []expert.HotExpert `json:"hot_experts"`
}

// Rank is one rank's load and the verdict on it.
type Rank struct {
	Rank       int    `json:"rank"`
	Node       string `json:"node"`
	DeviceUUID string `json:"device_uuid,omitempty"`
	// Assignments is the rank's load in the window, in top-k assignments.
	Assignments float64 `json:"assignments"`
	Seconds     float64 `json:"seconds"`
	// Verdict is absent until the window was judged.
	Verdict *correlate.Verdict `json:"verdict,omitempty"`
}

// KVCache is the token ledger over a window.
type KVCache struct {
	WindowSeconds float64      `json:"window_seconds"`
	Tokens        cache.Tokens `json:"tokens"`
	QueryTokens   float64      `json:"query_tokens"`
	HitTokens     float64      `json:"hit_tokens"`
	HitRatio      *float64     `json:"hit_ratio,omitempty"`
	// GapTokens is the engines' own total less the sum of the tiers; absent where
	// an engine has no total to compare with.
	GapTokens *float64 `json:"gap_tokens,omitempty"`
	Restarts  int      `json:"restarts"`
	Targets   []Target `json:"targets"`
}

// Target is the state of one scraped endpoint.
type Target struct {
	Address string `json:"address"`
	Up      bool   `json:"up"`
	// AgeSeconds is the time since the last good scrape; absent if there was none.
	AgeSeconds *float64 `json:"age_seconds,omitempty"`
	// Way says which of the engine's series are read.
	Way   string `json:"way,omitempty"`
	Error string `json:"error,omitempty"`
}
