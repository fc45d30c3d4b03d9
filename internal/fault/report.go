package fault

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"
)

// ReportSchema is the version of [NodeReport] that this code writes. Readers
// take every version from 1 on and ignore fields that they do not know.
const ReportSchema = 1

// Bounds of an honest report. 16 devices with every kind of the catalogue bad
// at once stay far below them.
const (
	MaxReportBytes    = 1 << 20
	maxReportFindings = 1024
	maxReportJobs     = 1024
	maxNameLength     = 253 // a DNS name
)

// CoverageState says what a report knows about one source of observations.
type CoverageState string

// Coverage states. Absent is normal (no such hardware or software); unknown is
// a source that should answer and does not.
const (
	CoverageOK      CoverageState = "ok"
	CoverageUnknown CoverageState = "unknown"
	CoverageAbsent  CoverageState = "absent"
)

// UnmarshalText maps every unrecognised coverage state to CoverageUnknown.
func (c *CoverageState) UnmarshalText(b []byte) error {
	switch v := CoverageState(b); v {
	case CoverageOK, CoverageUnknown, CoverageAbsent:
		*c = v
	default:
		*c = CoverageUnknown
	}
	return nil
}

// Coverage is what one source of the agent can currently vouch for.
type Coverage struct {
	Source string        `json:"source"`
	State  CoverageState `json:"state"`
	// AgeSeconds is how long before SentAt the source last answered; negative if never.
	AgeSeconds float64 `json:"age_seconds"`
	Detail     string  `json:"detail,omitempty"`
}

// Process ties a process of a job to the accelerator it computes on.
type Process struct {
	Job string `json:"job"`
	// Rank is the global rank; nil where the process does not say.
	Rank       *int   `json:"rank,omitempty"`
	LocalRank  *int   `json:"local_rank,omitempty"`
	PID        int    `json:"pid"`
	DeviceUUID string `json:"device_uuid"`
	// DeviceIndex is the device's number on its node.
	DeviceIndex int `json:"device_index"`
}

// NodeReport is everything that an agent currently holds about its node. The
// whole state is sent each time, so a lost report is repaired by the next.
type NodeReport struct {
	Schema     int    `json:"schema"`
	Cluster    string `json:"cluster"`
	Node       string `json:"node"`
	InstanceID string `json:"instance_id"`
	BootID     string `json:"boot_id"`
	// Incarnation is the agent's start time in nanoseconds since 1970, never
	// lower than one it used before (see [Position]).
	Incarnation int64  `json:"incarnation"`
	Sequence    uint64 `json:"sequence"`
	// SentAt is on the reporter's clock and informative only: lifetimes run on
	// the receiver's.
	SentAt           time.Time  `json:"sent_at"`
	AgentVersion     string     `json:"agent_version,omitempty"`
	CatalogueVersion string     `json:"catalogue_version,omitempty"`
	Findings         []Finding  `json:"findings,omitempty"`
	Coverage         []Coverage `json:"coverage,omitempty"`
	Jobs             []Process  `json:"jobs,omitempty"`
	// Simulated marks a report of an agent any of whose sources is injected.
	Simulated bool `json:"simulated,omitempty"`
}

// Position places a report among the others of its node.
//
// Boot ids are random and carry no order, so the incarnation orders across
// boots as well as across restarts of the agent; the sequence orders within
// one incarnation. An agent keeps its last incarnation in its state folder and
// starts with max(now, last+1), so a clock that was set back does no harm. If
// the state folder is lost as well, its reports look older than what the
// receiver holds; the receiver then answers 409 with the position it holds
// ([StaleReport]), and the agent continues from an incarnation one higher.
// Reports still in flight from an incarnation that has ended stay refused:
// nobody is left to read their 409.
type Position struct {
	BootID      string `json:"boot_id"`
	Incarnation int64  `json:"incarnation"`
	Sequence    uint64 `json:"sequence"`
}

// Position is the report's place in the order.
func (r *NodeReport) Position() Position {
	return Position{BootID: r.BootID, Incarnation: r.Incarnation, Sequence: r.Sequence}
}

// After reports whether p is newer than q. Two boots with the same incarnation
// cannot both be honest; neither is newer.
func (p Position) After(q Position) bool {
	if c := cmp.Compare(p.Incarnation, q.Incarnation); c != 0 {
		return c > 0
	}
	return p.BootID == q.BootID && p.Sequence > q.Sequence
}

// StaleReport is the body of the answer to a report that is not newer than the
// one held.
type StaleReport struct {
	Error string   `json:"error"`
	Held  Position `json:"held"`
}

var nodeName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)

// ValidName reports whether s can be the name of a node or a cluster.
func ValidName(s string) bool { return len(s) <= maxNameLength && nodeName.MatchString(s) }

// DecodeReport reads one report of at most [MaxReportBytes] and validates it.
// Unknown fields are ignored; unknown states, actions and coverage become
// Unknown, Investigate and CoverageUnknown.
func DecodeReport(r io.Reader) (*NodeReport, error) {
	body, err := io.ReadAll(io.LimitReader(r, MaxReportBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	if len(body) > MaxReportBytes {
		return nil, fmt.Errorf("report is larger than %d bytes", MaxReportBytes)
	}
	var report NodeReport
	if err := json.Unmarshal(body, &report); err != nil {
		return nil, fmt.Errorf("decode report: %w", err)
	}
	if err := report.Validate(); err != nil {
		return nil, err
	}
	return &report, nil
}

// Validate names every field that makes the report unusable.
func (r *NodeReport) Validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
	}
	if r.Schema < 1 {
		bad("schema", "must be 1 or higher, got %d", r.Schema)
	}
	if !ValidName(r.Cluster) {
		bad("cluster", "%.64q is not a name", r.Cluster)
	}
	if !ValidName(r.Node) {
		bad("node", "%.64q is not a name", r.Node)
	}
	if r.BootID == "" || len(r.BootID) > maxNameLength {
		bad("boot_id", "must be set and at most %d bytes long", maxNameLength)
	}
	if len(r.InstanceID) > maxNameLength {
		bad("instance_id", "must be at most %d bytes long", maxNameLength)
	}
	if r.Incarnation <= 0 {
		bad("incarnation", "must be positive, got %d", r.Incarnation)
	}
	if len(r.Findings) > maxReportFindings {
		bad("findings", "%d of them, at most %d are taken", len(r.Findings), maxReportFindings)
	}
	if len(r.Jobs) > maxReportJobs {
		bad("jobs", "%d of them, at most %d are taken", len(r.Jobs), maxReportJobs)
	}
	for i := range r.Coverage {
		if r.Coverage[i].State == "" {
			r.Coverage[i].State = CoverageUnknown
		}
	}
	seen := make(map[string]bool, len(r.Findings))
	for i := range r.Findings {
		f := &r.Findings[i]
		field := fmt.Sprintf("findings[%d]", i)
		switch {
		case f.ID == "" || len(f.ID) > maxNameLength:
			bad(field+".id", "must be set and at most %d bytes long", maxNameLength)
		case seen[f.ID]:
			bad(field+".id", "%q appears twice", f.ID)
		}
		seen[f.ID] = true
		if f.Kind == "" {
			bad(field+".kind", "must be set")
		}
		if f.State == "" {
			f.State = Unknown
		}
		if f.Action == "" {
			f.Action = Investigate
		}
		if f.Subject.Node != r.Node {
			bad(field+".subject.node", "%.64q is not the reporting node %q", f.Subject.Node, r.Node)
		}
		if f.State == OK && f.ClearedBy == nil {
			bad(field+".cleared_by", "a finding is cleared only by evidence")
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("invalid report: %w", err)
	}
	return nil
}
