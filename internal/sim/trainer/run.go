package trainer

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/evenkeel/evenkeel/internal/sim/trainer/dcp"
)

// LossLine is a line of the loss log. A resumed run appends, so a step may be
// there again: the later line counts.
type LossLine struct {
	Step int `json:"step"`
	// Loss is the mean squared error on the step's data before its update.
	Loss float64   `json:"loss"`
	Wall time.Time `json:"wall"`
	// Hot is true for a step with a hot expert, whose data an undisturbed run
	// does not have.
	Hot bool `json:"hot,omitempty"`
}

// Event is something that happened to the trainer.
type Event struct {
	// Event is started, checkpoint, ended, or error.
	Event string    `json:"event"`
	Step  int       `json:"step"`
	Wall  time.Time `json:"wall"`
	// Path is the checkpoint that was written, or started from.
	Path   string `json:"path,omitempty"`
	Detail string `json:"detail,omitempty"`
}

// Run trains until the last step or until ctx ends, which is no error. It fails
// on a checkpoint that it cannot resume from or write.
func Run(ctx context.Context, c Config) error {
	c.fillDefaults()
	if err := c.Validate(); err != nil {
		return fmt.Errorf("trainer configuration: %w", err)
	}
	t := &trainer{c: c, m: newModel(&c), events: &events{w: c.Events}}
	if c.Resume != "" {
		var err error
		if t.done, err = t.m.load(c.Resume); err != nil {
			return err
		}
	}
	t.w = newWorld(&c, t.m)
	log, err := openAppend(c.LossLog)
	if err != nil {
		return fmt.Errorf("open loss log: %w", err)
	}
	defer log.Close()
	t.losses = json.NewEncoder(log)
	windows, err := newWindows(&c, t.events)
	if err != nil {
		return err
	}
	defer windows.close()
	t.windows = windows
	t.event("started", c.Resume, "")
	if err := t.train(ctx); err != nil {
		return err
	}
	t.event("ended", "", "")
	return nil
}

// Reference gives the losses of steps 1 to n of a run that nothing disturbs.
func Reference(ctx context.Context, c Config, n int) ([]float64, error) {
	c.fillDefaults()
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("trainer configuration: %w", err)
	}
	w := newWorld(&c, newModel(&c))
	losses := make([]float64, n)
	for i := range losses {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		losses[i] = w.step(i+1, Causes{})
	}
	return losses, nil
}

// trainer is a run in progress.
type trainer struct {
	c       Config
	m       *model
	w       *world
	done    int // the last finished step
	losses  *json.Encoder
	windows *windows
	events  *events
}

func (t *trainer) train(ctx context.Context) error {
	pace := newPace(t.c.StepsPerSecond)
	defer pace.stop()
	for t.c.Steps == 0 || t.done < t.c.Steps {
		if !pace.wait(ctx) {
			return nil
		}
		causes, err := readCauses(t.c.CausesPath, &t.c)
		if err != nil {
			return err
		}
		step := t.done + 1
		loss := t.w.step(step, causes)
		t.done = step
		if err := t.losses.Encode(LossLine{Step: step, Loss: loss, Wall: time.Now(), Hot: causes.Hot != nil}); err != nil {
			return fmt.Errorf("write loss log: %w", err)
		}
		t.windows.add(t.w, step, time.Now())
		if t.c.CheckpointEvery > 0 && step%t.c.CheckpointEvery == 0 {
			if err := t.checkpoint(step); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkpoint writes the state after a step. The shard that a tear spoils is the
// last rank's.
func (t *trainer) checkpoint(step int) error {
	var tear *dcp.Tear
	if takeTear(&t.c, step) {
		tear = &dcp.Tear{Rank: len(t.c.Ranks) - 1}
	}
	path := filepath.Join(t.c.CheckpointDir, fmt.Sprintf("step-%d", step))
	if err := t.m.save(path, len(t.c.Ranks), step, tear); err != nil {
		return err
	}
	detail := ""
	if tear != nil {
		detail = fmt.Sprintf("the shard of rank %d did not reach the disk", tear.Rank)
	}
	t.event("checkpoint", path, detail)
	return nil
}

func (t *trainer) event(name, path, detail string) {
	t.events.tell(Event{Event: name, Step: t.done, Path: path, Detail: detail})
}

// events tells what happens, from any goroutine.
type events struct {
	mu sync.Mutex
	w  io.Writer // nil to tell nobody
}

// tell writes an event. A reader that went away is no reason to stop training.
func (e *events) tell(event Event) {
	if e.w == nil {
		return
	}
	event.Wall = time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	_ = json.NewEncoder(e.w).Encode(event)
}

// pace lets steps begin at a steady rate.
type pace struct{ ticker *time.Ticker }

func newPace(perSecond float64) *pace {
	if perSecond == 0 {
		return &pace{}
	}
	return &pace{time.NewTicker(time.Duration(float64(time.Second) / perSecond))}
}

// wait waits for the next step's time, and reports false when ctx ends first.
func (p *pace) wait(ctx context.Context) bool {
	if p.ticker == nil {
		return ctx.Err() == nil
	}
	select {
	case <-p.ticker.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

func (p *pace) stop() {
	if p.ticker != nil {
		p.ticker.Stop()
	}
}

// openAppend opens a log to append to; nothing is kept without a path.
func openAppend(path string) (*os.File, error) {
	if path == "" {
		path = os.DevNull
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
}
