package scheduler

import (
	"errors"
	"fmt"
	"slices"
)

// errRefused is about an operation that had no effect, errNotFound about a node
// or job that the cluster does not have.
var (
	errRefused  = errors.New("refused")
	errNotFound = errors.New("not found")
)

// NodeView is what the API says about a node.
type NodeView struct {
	Node         string `json:"node"`
	Responding   string `json:"responding"` // yes or no
	Isolated     bool   `json:"isolated"`
	IsolationKey string `json:"isolation_key,omitempty"`
	Reason       string `json:"reason,omitempty"`
	InstanceID   string `json:"instance_id"`
	BootID       string `json:"boot_id"`
	Job          string `json:"job,omitempty"`
	Idle         bool   `json:"idle"`
}

// JobView is what the API says about the job.
type JobView struct {
	Job           string   `json:"job"`
	State         string   `json:"state"` // running, pending, stopped or ended
	Nodes         []string `json:"nodes"`
	CheckpointDir string   `json:"checkpoint_dir,omitempty"`
	Restarts      int      `json:"restarts"`
	LastKey       string   `json:"last_key,omitempty"`
	Message       string   `json:"message,omitempty"` // why it ended or could not start
}

// Nodes gives every node, in the order in which the cluster was set up.
func (s *Scheduler) Nodes() []NodeView {
	s.mu.Lock()
	defer s.mu.Unlock()
	views := make([]NodeView, len(s.nodes))
	for i, n := range s.nodes {
		views[i] = n.view()
	}
	return views
}

func (n *node) view() NodeView {
	v := NodeView{Node: n.Name, Responding: "yes", InstanceID: n.InstanceID, BootID: n.BootID, Job: n.job, Idle: n.idle()}
	if n.down {
		v.Responding = "no"
	}
	if n.isolation != nil {
		v.Isolated, v.IsolationKey, v.Reason = true, n.isolation.key, n.isolation.reason
	}
	return v
}

// Job gives the job.
func (s *Scheduler) Job() JobView {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := JobView{
		Job: s.job.ID, State: s.job.state, Nodes: []string{}, CheckpointDir: s.job.CheckpointDir,
		Restarts: max(0, s.job.starts-1), LastKey: s.job.lastKey, Message: s.job.lastWord,
	}
	if s.job.state == running {
		v.Nodes = slices.Clone(s.job.nodes)
	}
	return v
}

// isolate takes a node out of scheduling. Another's isolation stands.
func (s *Scheduler) isolate(name, key, reason string) error {
	if key == "" {
		return fmt.Errorf("%w: an isolation needs a key", errRefused)
	}
	return s.change(name, func(n *node) error {
		switch {
		case n.isolation == nil:
			n.isolation = &isolation{key: key, reason: reason}
			return nil
		case n.isolation.key == key:
			return nil
		}
		return fmt.Errorf("%w: %s", errRefused, n.isolation)
	})
}

// unisolate ends the isolation with the key, and no other.
func (s *Scheduler) unisolate(name, key string) error {
	if key == "" {
		return fmt.Errorf("%w: an isolation without a key is a human's", errRefused)
	}
	return s.change(name, func(n *node) error {
		switch {
		case n.isolation == nil:
			return nil
		case n.isolation.key == key:
			n.isolation = nil
			return nil
		}
		return fmt.Errorf("%w: %s", errRefused, n.isolation)
	})
}

func (i *isolation) String() string {
	if i.key == "" {
		return fmt.Sprintf("isolated by hand: %s", i.reason)
	}
	return fmt.Sprintf("isolated under the key %s: %s", i.key, i.reason)
}

// stop kills the job and holds it.
func (s *Scheduler) stop(id, key string) error {
	return s.once(id, "stop", key, func() error {
		if s.job.state == ended {
			return fmt.Errorf("%w: job %s has ended", errRefused, id)
		}
		if s.job.process != nil {
			if err := s.job.process.Kill(); err != nil {
				return fmt.Errorf("kill job %s: %w", id, err)
			}
		}
		s.job.state, s.job.process, s.job.waiting = stopped, nil, resumption{}
		s.free()
		return nil
	})
}

// resume starts a stopped job from a checkpoint, as soon as there are nodes.
func (s *Scheduler) resume(id, key, checkpoint string, exclude []string) error {
	return s.once(id, "resume", key, func() error {
		if s.job.state != stopped {
			return fmt.Errorf("%w: job %s is %s", errRefused, id, s.job.state)
		}
		s.job.state, s.job.waiting = pending, resumption{checkpoint: checkpoint, exclude: slices.Clone(exclude)}
		return s.schedule()
	})
}

// once applies an operation on the job unless it was applied under the same key
// before, even if others came between.
func (s *Scheduler) once(id, operation, key string, f func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id != s.job.ID {
		return fmt.Errorf("job %q: %w", id, errNotFound)
	}
	if key == "" {
		return fmt.Errorf("%w: %s needs a key", errRefused, operation)
	}
	if s.job.applied[operation+" "+key] {
		return nil
	}
	if err := f(); err != nil {
		return err
	}
	s.job.applied[operation+" "+key] = true
	s.job.lastKey = key
	return nil
}
