package incident

import (
	"context"
	"errors"
	"time"
)

// ErrNotExecuted is in the chain of an actuator's error when the call certainly
// had no effect: refused, throttled, or never sent. Any other error of an
// actuator is ambiguous: the call may have taken effect, and only the world can
// tell, after its known lag.
var ErrNotExecuted = errors.New("not executed")

// ErrNotFound is in the chain of an error about a node, job or instance that
// the answering service says it does not have. It is an answer, unlike any
// other error of a read, which means unknown.
var ErrNotFound = errors.New("not found")

// Responding is what an orchestrator says about a node's own daemon.
type Responding string

// The answers of an orchestrator; the zero value is none.
const (
	RespondingUnknown Responding = ""
	RespondingYes     Responding = "yes"
	RespondingNo      Responding = "no"
)

// NodeView is the orchestrator's view of one node.
type NodeView struct {
	Node       string     `json:"node"`
	Responding Responding `json:"responding,omitempty"`
	// Isolated is true while the node gets no new work because somebody asked for
	// that, whoever it was. A node that is merely down is not isolated.
	Isolated bool `json:"isolated"`
	// IsolationKey is the key of the isolation that Evenkeel placed, empty if the
	// node is not isolated or a human or another system did it.
	IsolationKey string `json:"isolation_key,omitempty"`
	Reason       string `json:"reason,omitempty"`
	// InstanceID and BootID as the orchestrator knows them; empty if it does not.
	InstanceID string `json:"instance_id,omitempty"`
	BootID     string `json:"boot_id,omitempty"`
	// Job is the job that holds the node, empty for none.
	Job string `json:"job,omitempty"`
	// Idle is true for a node that could take work now: a spare.
	Idle bool `json:"idle"`
}

// Nodes reads the orchestrator's view.
type Nodes interface {
	// View gives the view of one node; ErrNotFound if there is no such node.
	View(ctx context.Context, node string) (NodeView, error)
	// Views gives every node's.
	Views(ctx context.Context) ([]NodeView, error)
}

// Isolation asks for a node to get no new work. The key is the idempotency key
// and the mark by which Evenkeel recognises its own isolation.
type Isolation struct {
	Key       string
	Node      string
	Reason    string
	Simulated bool
}

// Isolator takes nodes out of scheduling and puts them back. Both calls are
// idempotent by key; Unisolate undoes only the isolation with that key and
// leaves any other, such as a human's, in place.
type Isolator interface {
	Isolate(ctx context.Context, i Isolation) error
	Unisolate(ctx context.Context, i Isolation) error
}

// JobState is what the orchestrator says about a job.
type JobState string

// The job states that matter here.
const (
	JobUnknown JobState = ""
	JobRunning JobState = "running"
	JobPending JobState = "pending"
	JobStopped JobState = "stopped" // held by Stop, can be resumed
	JobEnded   JobState = "ended"
)

// JobView is the orchestrator's view of one job.
type JobView struct {
	Job   string   `json:"job"`
	State JobState `json:"state"`
	Nodes []string `json:"nodes"`
	// CheckpointDir is where the job writes its checkpoints, empty if unknown.
	CheckpointDir string `json:"checkpoint_dir,omitempty"`
	// SelfResuming is true for a job that HyperPod restarts by itself (auto
	// resume); it is left to it.
	SelfResuming bool `json:"self_resuming,omitempty"`
	// Restarts counts how often the job was started again.
	Restarts int `json:"restarts"`
	// LastKey is the idempotency key of the last Stop or Resume that took effect.
	LastKey string `json:"last_key,omitempty"`
}

// Resumption asks for a stopped job to run again from a checkpoint.
type Resumption struct {
	Key        string
	Job        string
	Checkpoint string // path of the checkpoint, empty for the job's beginning
	Exclude    []string
	Simulated  bool
}

// Stoppage asks for a job to stop and be held.
type Stoppage struct {
	Key       string
	Job       string
	Reason    string
	Simulated bool
}

// Jobs controls jobs. Stop and Resume are idempotent by key.
type Jobs interface {
	Job(ctx context.Context, id string) (JobView, error)
	Stop(ctx context.Context, s Stoppage) error
	Resume(ctx context.Context, r Resumption) error
}

// Machine is the provider's view of one instance.
type Machine struct {
	InstanceID string `json:"instance_id"`
	// Node is the name under which the orchestrator knows the instance.
	Node   string `json:"node"`
	Group  string `json:"group,omitempty"`
	Status string `json:"status"` // the provider's own word
	// Running is true when the provider says the instance works. Its view lags.
	Running bool `json:"running"`
	// Busy is true while the provider itself is at work on the instance: starting,
	// shutting down, updating or checking it. It is left alone then.
	Busy     bool      `json:"busy,omitempty"`
	Launched time.Time `json:"launched,omitzero"`
	Message  string    `json:"message,omitempty"`
}

// MachineCall asks the provider to replace or reboot one instance.
type MachineCall struct {
	InstanceID string
	Simulated  bool
}

// Machines is the provider: HyperPod. Its calls carry no client token, so the
// caller must settle an ambiguous outcome by reading before it repeats one.
type Machines interface {
	// Instance gives one instance; ErrNotFound if the provider says it has none.
	Instance(ctx context.Context, instanceID string) (Machine, error)
	// AtNode gives the instance that now carries a node name.
	AtNode(ctx context.Context, node string) (Machine, error)
	Replace(ctx context.Context, c MachineCall) error
	Reboot(ctx context.Context, c MachineCall) error
}

// Choice is the newest whole checkpoint of a job, and why newer ones were
// refused.
type Choice struct {
	// Path is empty when no whole checkpoint exists.
	Path    string    `json:"path"`
	Step    int       `json:"step"`
	Refused []Refusal `json:"refused,omitempty"`
}

// Refusal is a checkpoint that must not be resumed from.
type Refusal struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// Checkpoints chooses what a job is resumed from.
type Checkpoints interface {
	Choose(ctx context.Context, dir string) (Choice, error)
}
