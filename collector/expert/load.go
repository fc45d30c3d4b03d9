// Package expert turns one window of expert load, as an engine or a trainer
// posts it, into how evenly the work was spread: balancedness per layer and
// over all layers, tokens per rank, and the hottest experts.
//
// It decides what a well-formed post is ([Decode], [Load.Validate]) and what
// the figures mean on degenerate input ([Measure]). It refuses counts that are
// negative, ragged or too large to add up exactly, and a placement that does
// not fit the counts. It never says why a rank is slow: that is correlate's.
package expert

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// Schema is the version of [Load] that this code reads.
const Schema = 1

// Bounds of an honest post. The largest MoE in use has 61 layers and 384
// experts, the largest expert-parallel group 320 ranks.
const (
	MaxBodyBytes = 32 << 20
	MaxLayers    = 512
	MaxExperts   = 4096
	MaxRanks     = 4096
	// MaxCount bounds one count so that MaxLayers*MaxExperts of them stay below
	// 2^63: sums of counts are exact and cannot overflow.
	MaxCount = 1 << 40
	// maxRankID bounds the number of a rank; global ranks exceed MaxRanks where
	// a job has several pipeline stages.
	maxRankID     = 1 << 20
	maxNameLength = 253
	maxWindow     = 24 * 60 * 60
	maxTopK       = 1024
	// maxErrors bounds how many field errors one answer names.
	maxErrors = 8
)

// ErrTooLarge is in the chain of [Decode]'s error when the body exceeds
// [MaxBodyBytes].
var ErrTooLarge = errors.New("body is too large")

// Load is one window of one replica: who was asked for, where it lives, and how
// long each rank computed.
type Load struct {
	Schema  int    `json:"schema"`
	Cluster string `json:"cluster"`
	Model   string `json:"model"`
	Replica string `json:"replica"`
	// Job is the job that the agents see on the devices; empty where there is none.
	Job string `json:"job,omitempty"`
	// WindowSeconds is the length of the window.
	WindowSeconds float64 `json:"window_seconds"`
	// Generation numbers the placement: it rises with every rearrangement.
	Generation uint64 `json:"generation"`
	// TopK is how many experts the router chooses for a token in a layer.
	TopK int `json:"top_k"`
	// Counts are top-k assignments in the window: a token counts TopK times in
	// each layer. Logical experts, not physical slots.
	Counts Counts `json:"counts"`
	// Placement names the ranks that hold each expert.
	Placement Placement `json:"placement"`
	Ranks     []Rank    `json:"ranks"`
}

// Counts is assignments by layer and expert.
type Counts [][]int64

// Placement is ranks by layer and expert. An expert's load is split evenly over
// its entries; a rank named twice holds two replicas and takes two shares.
type Placement [][][]int32

// Rank is one process of the replica and the accelerator it computes on.
type Rank struct {
	Rank       int    `json:"rank"`
	Node       string `json:"node"`
	DeviceUUID string `json:"device_uuid,omitempty"`
	// Seconds is the time that the rank spent computing in the window, without
	// waiting for others. Zero means not measured.
	Seconds float64 `json:"seconds"`
}

// Decode reads one post of at most [MaxBodyBytes] and validates it. Unknown
// fields are refused: a misspelt field would otherwise be a silent zero.
func Decode(r io.Reader) (*Load, error) {
	bounded := &io.LimitedReader{R: r, N: MaxBodyBytes + 1}
	d := json.NewDecoder(bounded)
	d.DisallowUnknownFields()
	var l Load
	err := d.Decode(&l)
	if err == nil {
		// Decode stops at the end of the first value; whatever follows is refused.
		if _, more := d.Token(); more != io.EOF {
			err = errors.New("more follows the JSON value")
		}
	}
	switch {
	case bounded.N <= 0:
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, MaxBodyBytes)
	case err != nil:
		return nil, fmt.Errorf("decode expert load: %w", err)
	}
	if err := l.Validate(); err != nil {
		return nil, err
	}
	return &l, nil
}

var deviceUUID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$`)

// Validate names the fields that make the post unusable, the first few of them.
func (l *Load) Validate() error {
	c := &complaints{}
	if l.Schema != Schema {
		c.add("schema", "must be %d, got %d", Schema, l.Schema)
	}
	if !fault.ValidName(l.Cluster) {
		c.add("cluster", "%.64q is not a name", l.Cluster)
	}
	c.label("model", l.Model, true)
	c.label("replica", l.Replica, true)
	c.label("job", l.Job, false)
	if l.WindowSeconds <= 0 || l.WindowSeconds > maxWindow {
		c.add("window_seconds", "must be above 0 and at most %d, got %g", maxWindow, l.WindowSeconds)
	}
	if l.TopK < 1 || l.TopK > maxTopK {
		c.add("top_k", "must be 1 to %d, got %d", maxTopK, l.TopK)
	}
	ranks := l.validateRanks(c)
	l.validateCounts(c)
	l.validatePlacement(c, ranks)
	return c.err()
}

func (l *Load) validateRanks(c *complaints) map[int32]bool {
	if len(l.Ranks) == 0 || len(l.Ranks) > MaxRanks {
		c.add("ranks", "must be 1 to %d, got %d", MaxRanks, len(l.Ranks))
		return nil
	}
	seen := make(map[int32]bool, len(l.Ranks))
	for i, r := range l.Ranks {
		field := fmt.Sprintf("ranks[%d]", i)
		switch {
		case r.Rank < 0 || r.Rank >= maxRankID:
			c.add(field+".rank", "must be 0 to %d, got %d", maxRankID-1, r.Rank)
			continue
		case seen[int32(r.Rank)]:
			c.add(field+".rank", "%d appears twice", r.Rank)
		}
		seen[int32(r.Rank)] = true
		if !fault.ValidName(r.Node) {
			c.add(field+".node", "%.64q is not a name", r.Node)
		}
		if r.DeviceUUID != "" && !deviceUUID.MatchString(r.DeviceUUID) {
			c.add(field+".device_uuid", "%.64q is not a device UUID", r.DeviceUUID)
		}
		if !(r.Seconds >= 0 && r.Seconds <= maxWindow) {
			c.add(field+".seconds", "must be 0 to %d, got %g", maxWindow, r.Seconds)
		}
	}
	return seen
}

func (l *Load) validateCounts(c *complaints) {
	if len(l.Counts) == 0 || len(l.Counts) > MaxLayers {
		c.add("counts", "must hold 1 to %d layers, got %d", MaxLayers, len(l.Counts))
		return
	}
	experts := len(l.Counts[0])
	if experts == 0 || experts > MaxExperts {
		c.add("counts[0]", "must hold 1 to %d experts, got %d", MaxExperts, experts)
	}
	for layer, row := range l.Counts {
		if len(row) != experts {
			c.add(fmt.Sprintf("counts[%d]", layer), "holds %d experts and counts[0] holds %d", len(row), experts)
		}
		for e, n := range row {
			if n < 0 || n > MaxCount {
				c.add(fmt.Sprintf("counts[%d][%d]", layer, e), "must be 0 to 2^40, got %d", n)
			}
		}
	}
}

func (l *Load) validatePlacement(c *complaints, ranks map[int32]bool) {
	if len(l.Placement) != len(l.Counts) {
		c.add("placement", "holds %d layers and counts holds %d", len(l.Placement), len(l.Counts))
		return
	}
	for layer, row := range l.Placement {
		if len(row) != len(l.Counts[layer]) {
			c.add(fmt.Sprintf("placement[%d]", layer), "holds %d experts and counts[%d] holds %d", len(row), layer, len(l.Counts[layer]))
			continue
		}
		for e, holders := range row {
			if len(holders) == 0 || len(holders) > MaxRanks {
				c.add(fmt.Sprintf("placement[%d][%d]", layer, e), "must name 1 to %d ranks, got %d", MaxRanks, len(holders))
			}
			for i, rank := range holders {
				if !ranks[rank] {
					c.add(fmt.Sprintf("placement[%d][%d][%d]", layer, e, i), "rank %d is not in ranks", rank)
				}
			}
		}
	}
}

// Fingerprint tells placements apart. Two posts of one generation must have the
// same.
func (p Placement) Fingerprint() uint64 {
	h := fnv.New64a()
	var b [4]byte
	write := func(v int32) {
		b[0], b[1], b[2], b[3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
		h.Write(b[:])
	}
	for _, row := range p {
		write(int32(len(row)))
		for _, holders := range row {
			write(int32(len(holders)))
			for _, rank := range holders {
				write(rank)
			}
		}
	}
	return h.Sum64()
}

// complaints collects field errors and stops listing after maxErrors.
type complaints struct {
	errs []error
	more int
}

func (c *complaints) add(field, format string, args ...any) {
	if len(c.errs) == maxErrors {
		c.more++
		return
	}
	c.errs = append(c.errs, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
}

// label checks what becomes a label value of a metric.
func (c *complaints) label(field, value string, required bool) {
	switch {
	case value == "" && required:
		c.add(field, "must be set")
	case len(value) > maxNameLength:
		c.add(field, "must be at most %d bytes long, got %d", maxNameLength, len(value))
	case !utf8.ValidString(value), strings.ContainsFunc(value, unicode.IsControl):
		c.add(field, "%.64q holds characters that a label must not", value)
	}
}

func (c *complaints) err() error {
	if len(c.errs) == 0 {
		return nil
	}
	err := errors.Join(c.errs...)
	if c.more > 0 {
		return fmt.Errorf("invalid expert load: %w\nand %d more", err, c.more)
	}
	return fmt.Errorf("invalid expert load: %w", err)
}
