// Package source is the contract between the agent and whatever it observes: a
// [Source] emits a [Batch] whenever it has something to say, and says so too
// when it cannot see.
//
// The package decides only the shape of a batch. What an observation means is
// decided by agent/health, and what leaves the node by the agent's snapshot.
package source

import (
	"context"
	"time"

	"github.com/evenkeel/evenkeel/agent/health"
	"github.com/evenkeel/evenkeel/internal/fault"
)

// Source is one thing that the agent watches: the kernel log, the devices.
type Source interface {
	// Name is the source's name in observations, coverage and metrics, for
	// example "kernel". It does not change.
	Name() string
	// Run observes until ctx ends and then returns nil. It calls emit from one
	// goroutine at a time, at once when it sees something, and otherwise at its
	// own interval, so that a batch's age tells whether the source is alive. Trouble
	// with what is observed is a batch with coverage unknown, and Run tries again;
	// an error means that this source cannot work at all.
	Run(ctx context.Context, emit func(Batch)) error
}

// Batch is what a source knows at one moment.
type Batch struct {
	Source string
	Time   time.Time
	// Observations are events and verdicts since the batch before.
	Observations []health.Observation
	// Readings, Processes, Coverage and Detail replace what the source said
	// before: what is not repeated is no longer current.
	Readings  []Reading
	Processes []fault.Process
	Coverage  fault.CoverageState
	// Detail says why, where Coverage is not ok.
	Detail string
	// Simulated marks a source that is injected and not the node's own.
	Simulated bool
	// Resume says where the source continues after a restart of the agent; opaque,
	// nil for a source that needs none. It is to be persisted together with the
	// findings that include this batch, and given back to the source's constructor.
	Resume []byte
}

// ReadingType is the type of metric that a reading is exported as.
type ReadingType string

// The types.
const (
	Gauge   ReadingType = "gauge"
	Counter ReadingType = "counter"
)

// Label is one label of a reading.
type Label struct{ Name, Value string }

// Reading is one number, under the name and labels that it is exported with.
// The labels cluster and node are the snapshot's to add.
type Reading struct {
	Name   string
	Help   string
	Type   ReadingType
	Labels []Label
	Value  float64
}
