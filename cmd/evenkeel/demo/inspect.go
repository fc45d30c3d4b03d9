package demo

import (
	"fmt"

	"github.com/evenkeel/evenkeel/internal/sim/hyperpod"
)

// Kill implements Cluster.
func (c *cluster) Kill(daemon string) error {
	switch daemon {
	case "remediator":
		return c.remediator.kill()
	case "collector":
		return c.collector.kill()
	}
	if agent, ok := c.agents[daemon]; ok {
		return agent.kill()
	}
	return fmt.Errorf("the demo has no daemon %q", daemon)
}

// LoseAnswer implements Cluster.
func (c *cluster) LoseAnswer() {
	c.hyperpod.Inject("BatchReplaceClusterNodes", hyperpod.Fault{Kind: hyperpod.AnswerLost})
}

// StoreURL implements Cluster.
func (c *cluster) StoreURL() string { return c.urls.store }

// PIDs implements Cluster.
func (c *cluster) PIDs() map[string]int {
	pids := map[string]int{"remediator": c.remediator.pid(), "collector": c.collector.pid()}
	for name, agent := range c.agents {
		pids[name] = agent.pid()
	}
	return pids
}
