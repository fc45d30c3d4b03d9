// Package command speaks to an orchestrator through the operator's own program:
// one process per call, a JSON request on its standard input, a JSON answer on
// its standard output. It gives the remediator nodes, isolation and jobs.
//
// It decides what an answer means. Exit status 0 with a whole, matching answer
// is one; anything else (another status, the deadline, output that is not an
// answer) says nothing: unknown for a question, and ambiguous for a request,
// which may have taken effect. It refuses to pass simulated requests on unless
// its endpoint is on loopback, and gives the program nothing of its own
// environment but PATH.
package command

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"time"

	"github.com/evenkeel/evenkeel/remediate/incident"
)

// Schema is the version of the protocol.
const Schema = 1

// maxAtOnce bounds the programs that run at the same time.
const maxAtOnce = 8

// Config names the program.
type Config struct {
	// Program is the absolute path of the executable and its arguments.
	Program []string `yaml:"program"`
	// Endpoint is the URL of the service that the program talks to; the program
	// gets it as EVENKEEL_ENDPOINT. Simulated requests are refused unless its
	// host is loopback.
	Endpoint string `yaml:"endpoint"`
	// Timeout is how long one call may take before its process group is killed;
	// 0 for DefaultTimeout.
	Timeout time.Duration `yaml:"timeout"`
}

// DefaultTimeout allows for a busy Slurm controller, which answers within its
// own MessageTimeout of 10 s or not at all.
const DefaultTimeout = 15 * time.Second

// Validate names every field that cannot work.
func (c Config) Validate() error {
	var errs []error
	switch {
	case len(c.Program) == 0:
		errs = append(errs, errors.New("program: must name an executable"))
	case !filepath.IsAbs(c.Program[0]):
		errs = append(errs, fmt.Errorf("program: %q is not an absolute path", c.Program[0]))
	}
	if c.Timeout < 0 {
		errs = append(errs, fmt.Errorf("timeout: must not be negative, got %s", c.Timeout))
	}
	if c.Endpoint != "" {
		if u, err := url.Parse(c.Endpoint); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			errs = append(errs, fmt.Errorf("endpoint: %q is not an http or https URL", c.Endpoint))
		}
	}
	return errors.Join(errs...)
}

// loopback reports whether the endpoint can only be on this machine.
func loopback(endpoint string) bool {
	u, err := url.Parse(endpoint)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// Adapter implements incident.Nodes, incident.Isolator and incident.Jobs.
type Adapter struct {
	config    Config
	simulated bool // whether simulated requests may pass
	turn      chan struct{}
}

// New gives the adapter for a valid configuration.
func New(c Config) (*Adapter, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c.Timeout = cmp.Or(c.Timeout, DefaultTimeout)
	return &Adapter{config: c, simulated: loopback(c.Endpoint), turn: make(chan struct{}, maxAtOnce)}, nil
}

// request is what the program reads.
type request struct {
	Schema     int      `json:"schema"`
	Operation  string   `json:"operation"`
	Key        string   `json:"key"`
	Node       string   `json:"node"`
	Reason     string   `json:"reason"`
	Job        string   `json:"job"`
	Checkpoint string   `json:"checkpoint"`
	Exclude    []string `json:"exclude"`
}

// View gives the orchestrator's view of one node.
func (a *Adapter) View(ctx context.Context, node string) (incident.NodeView, error) {
	answer, err := a.ask(ctx, request{Operation: "view", Node: node})
	if err != nil {
		return incident.NodeView{}, err
	}
	if answer.Node == nil || answer.Node.Node != node {
		return incident.NodeView{}, fmt.Errorf("view: the answer is not about %s", node)
	}
	return *answer.Node, nil
}

// Views gives every node's view.
func (a *Adapter) Views(ctx context.Context) ([]incident.NodeView, error) {
	answer, err := a.ask(ctx, request{Operation: "views"})
	return answer.Nodes, err
}

// Job gives the orchestrator's view of one job.
func (a *Adapter) Job(ctx context.Context, id string) (incident.JobView, error) {
	answer, err := a.ask(ctx, request{Operation: "job", Job: id})
	if err != nil {
		return incident.JobView{}, err
	}
	if answer.Job == nil || answer.Job.Job != id {
		return incident.JobView{}, fmt.Errorf("job: the answer is not about %s", id)
	}
	return *answer.Job, nil
}

// Isolate takes a node out of scheduling.
func (a *Adapter) Isolate(ctx context.Context, i incident.Isolation) error {
	return a.tell(ctx, i.Simulated, request{Operation: "isolate", Key: i.Key, Node: i.Node, Reason: i.Reason})
}

// Unisolate ends the isolation with the key.
func (a *Adapter) Unisolate(ctx context.Context, i incident.Isolation) error {
	return a.tell(ctx, i.Simulated, request{Operation: "unisolate", Key: i.Key, Node: i.Node, Reason: i.Reason})
}

// Stop stops a job and holds it.
func (a *Adapter) Stop(ctx context.Context, s incident.Stoppage) error {
	return a.tell(ctx, s.Simulated, request{Operation: "stop", Key: s.Key, Job: s.Job, Reason: s.Reason})
}

// Resume runs a stopped job again.
func (a *Adapter) Resume(ctx context.Context, r incident.Resumption) error {
	return a.tell(ctx, r.Simulated, request{Operation: "resume", Key: r.Key, Job: r.Job, Checkpoint: r.Checkpoint, Exclude: r.Exclude})
}

// ask puts a question. Its error has incident.ErrNotFound in the chain if that
// is the answer; any other means that the answer is not known.
func (a *Adapter) ask(ctx context.Context, r request) (answer, error) {
	body, err := a.call(ctx, r)
	if err != nil {
		return answer{}, fmt.Errorf("%s: %w", r.Operation, err)
	}
	got, err := decode(body)
	switch {
	case err != nil:
		return answer{}, fmt.Errorf("%s: %w", r.Operation, err)
	case got.Outcome == outcomeNotFound:
		return answer{}, fmt.Errorf("%s: %w: %s", r.Operation, incident.ErrNotFound, got.Message)
	case got.Outcome == outcomeRefused:
		return answer{}, fmt.Errorf("%s: refused: %s", r.Operation, got.Message)
	}
	return got, nil
}

// tell makes a request. Its error has incident.ErrNotExecuted in the chain if
// the request certainly had no effect.
func (a *Adapter) tell(ctx context.Context, simulated bool, r request) error {
	if simulated && !a.simulated {
		return fmt.Errorf("%s: %w: the request is simulated and endpoint %q is not on loopback", r.Operation, incident.ErrNotExecuted, a.config.Endpoint)
	}
	body, err := a.call(ctx, r)
	if err != nil {
		return fmt.Errorf("%s: %w", r.Operation, err)
	}
	got, err := decode(body)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", r.Operation, err)
	case got.Outcome == outcomeNotFound:
		return fmt.Errorf("%s: %w, %w: %s", r.Operation, incident.ErrNotExecuted, incident.ErrNotFound, got.Message)
	case got.Outcome == outcomeRefused:
		return fmt.Errorf("%s: %w: %s", r.Operation, incident.ErrNotExecuted, got.Message)
	}
	return nil
}

// call runs the program once, when it is its turn, and gives what it printed.
func (a *Adapter) call(ctx context.Context, r request) ([]byte, error) {
	r.Schema = Schema
	if r.Exclude == nil {
		r.Exclude = []string{}
	}
	input, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("%w: encode request: %w", incident.ErrNotExecuted, err)
	}
	select {
	case a.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: no turn before the deadline: %w", incident.ErrNotExecuted, ctx.Err())
	}
	defer func() { <-a.turn }()
	ctx, cancel := context.WithTimeout(ctx, a.config.Timeout)
	defer cancel()
	return run(ctx, a.config, input)
}
