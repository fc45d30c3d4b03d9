package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/evenkeel/evenkeel/collector/api"
	"github.com/evenkeel/evenkeel/collector/correlate"
	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/incident"
)

// scene injects causes, waits for what has to follow, and checks that nothing
// else did.
type scene struct {
	id, title string
	play      func(context.Context, *cluster) error
}

var scenes = []scene{
	{"a", "a GPU falls off the bus while a checkpoint is being written", offTheBus},
	{"b", "a hot expert makes one rank slow", hotExpert},
	{"c", "four nodes report link faults within seconds", fabricFault},
	{"d", "a node goes silent; elsewhere only an agent dies", silence},
}

// offTheBus: kernel lines and the device agree. The node is isolated, the torn
// checkpoint refused, the job resumed on the spare at once, the node replaced
// once, validated, and kept as the new spare.
func offTheBus(ctx context.Context, c *cluster) error {
	const node = "ip-10-1-0-5"
	m := c.machines[node]
	old, _ := m.ids()
	if err := waitFor(ctx, 20*time.Second, "the torn checkpoint", func() (bool, error) { return c.training.torn() > 0, nil }); err != nil {
		return err
	}
	struck := c.now()
	c.tell("world", "%s: GPU 0 falls off the bus; the shard that its rank was writing did not reach the disk", node)
	if err := errors.Join(
		m.change(func(d *devices) { d.GPUs[0].Lost = true }),
		m.kernel(
			fmt.Sprintf("NVRM: GPU at PCI:0000:53:00: %s", m.gpuUUIDs()[0]),
			"NVRM: Xid (PCI:0000:53:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
			"NVRM: GPU 0000:53:00.0: GPU has fallen off the bus.",
		),
		c.training.hang(), // its peers wait in a collective
	); err != nil {
		return err
	}
	i, err := c.closed(ctx, node, struck, incident.Repaired)
	if err != nil {
		return err
	}
	return errors.Join(
		c.replacedOnce(struck, old),
		c.isSpare(node),
		c.resumedBefore(i, c.training.tearAt),
		c.sameLosses(ctx, i.Checkpoint.Step),
		c.minutesLost(i, struck),
	)
}

// hotExpert: the router prefers one expert, so its rank has more to do. The
// collector has to say busy, and nobody may touch the node.
func hotExpert(ctx context.Context, c *cluster) error {
	const expert = 4
	began := c.now()
	c.tell("world", "the data prefers expert %d of %d: its rank has more tokens to compute", expert, c.training.experts())
	if err := c.training.causeHot(expert); err != nil {
		return err
	}
	verdict := func(want correlate.Word, limit time.Duration) error {
		return waitFor(ctx, limit, fmt.Sprintf("the verdict %q on rank %d", want, expert), func() (bool, error) {
			r, err := c.rank(ctx, expert)
			if err != nil || r.Verdict == nil {
				return false, err
			}
			if r.Verdict.Word == correlate.Sick || r.Verdict.Word == correlate.Both {
				return false, fmt.Errorf("rank %d is called %s: %v", expert, r.Verdict.Word, r.Verdict.Reasons)
			}
			return r.Verdict.Word == want, fmt.Errorf("the verdict is %q: %v", r.Verdict.Word, r.Verdict.Reasons)
		})
	}
	if err := verdict(correlate.Busy, 15*time.Second); err != nil {
		return err
	}
	r, err := c.rank(ctx, expert)
	if err != nil {
		return err
	}
	c.tell("collector", "rank %d on %s is %s: %s", expert, r.Node, r.Verdict.Word, firstReason(r.Verdict.Reasons))
	if err := c.sayReplica(ctx); err != nil {
		return err
	}
	c.tell("world", "the data is even again")
	if err := c.training.causeNothing(); err != nil {
		return err
	}
	if err := verdict(correlate.Normal, 15*time.Second); err != nil {
		return err
	}
	c.tell("collector", "rank %d is normal again", expert)
	return c.untouched(began)
}

// fabricFault: the same family of faults on four nodes at once is not the nodes'
// fault. Nothing may be done, and the hold ends when the links are well again.
func fabricFault(ctx context.Context, c *cluster) error {
	nodes := []string{"ip-10-1-0-1", "ip-10-1-0-2", "ip-10-1-0-3", "ip-10-1-0-4"}
	began := c.now()
	for _, node := range nodes {
		m := c.machines[node]
		c.tell("world", "%s: NVLink 1 of GPU 0 goes down", node)
		if err := errors.Join(
			m.change(func(d *devices) { d.GPUs[0].NVLinks[1] = link{Link: 1, Up: false, ErrorsTotal: 7} }),
			m.kernel(slices.Repeat([]string{"NVRM: Xid (PCI:0000:53:00): 74, pid='<unknown>', name=<unknown>, NVLink: fatal error detected on link 1(0x0, 0x0, 0x10000, 0x0, 0x0, 0x0, 0x0)"}, 2)...),
			pause(ctx, 500*time.Millisecond),
		); err != nil {
			return err
		}
	}
	held := func() int {
		n := 0
		for _, node := range nodes {
			for _, i := range c.watch.incidentsOn(node, began) {
				for _, h := range i.Held() {
					if h.Guard == "common_cause" {
						n++
					}
				}
			}
		}
		return n
	}
	if err := waitFor(ctx, 10*time.Second, "a common-cause hold on four nodes", func() (bool, error) {
		n := held()
		return n >= len(nodes), fmt.Errorf("%d nodes are held", n)
	}); err != nil {
		return err
	}
	// Longer than a single node of this family would have been left alone.
	if err := pause(ctx, 3*time.Second); err != nil {
		return err
	}
	if err := c.untouched(began); err != nil {
		return err
	}
	c.tell("world", "the switch is back: all links are up")
	for _, node := range nodes {
		if err := c.machines[node].change(func(d *devices) { d.GPUs[0].NVLinks[1].Up = true }); err != nil {
			return err
		}
	}
	for _, node := range nodes {
		if _, err := c.closed(ctx, node, began, incident.Recovered); err != nil {
			return err
		}
		if n, ok := c.watch.node(node); !ok || n.State != fault.OK {
			return fmt.Errorf("%s is not well after its links came back", node)
		}
	}
	return c.untouched(began)
}

// silence: one node dies with its agent; on another only the agent dies. The
// first is recognised as silent and replaced once, the second left alone.
func silence(ctx context.Context, c *cluster) error {
	const dead, orphan = "ip-10-1-0-2", "ip-10-1-0-4"
	old, _ := c.machines[dead].ids()
	began := c.now()
	c.tell("world", "%s: the instance loses power", dead)
	c.agents[dead].stop(syscall.SIGKILL)
	if err := errors.Join(c.hyperpod.KillInstance(old), c.nodeIsDown(dead), c.training.hang()); err != nil {
		return err
	}
	c.tell("world", "%s: the agent dies, the node computes on", orphan)
	c.agents[orphan].stop(syscall.SIGKILL)

	if err := c.found(ctx, orphan, fault.AgentSilent); err != nil {
		return err
	}
	if err := c.found(ctx, dead, fault.NodeSilent); err != nil {
		return err
	}
	if _, err := c.closed(ctx, dead, began, incident.Repaired); err != nil {
		return err
	}
	if err := errors.Join(c.replacedOnce(began, old), c.untouchedNode(orphan, began)); err != nil {
		return err
	}
	c.tell("world", "%s: the agent is started again", orphan)
	if err := c.agents[orphan].start(); err != nil {
		return err
	}
	return waitFor(ctx, 10*time.Second, orphan+" being well again", func() (bool, error) {
		n, ok := c.watch.node(orphan)
		if !ok || n.State != fault.OK {
			return false, fmt.Errorf("its state is %q", n.State)
		}
		return true, c.untouchedNode(orphan, began)
	})
}

// rank gives what the collector says about a rank of the job.
func (c *cluster) rank(ctx context.Context, rank int) (api.Rank, error) {
	var list api.ReplicaList
	if err := getJSON(ctx, c.operator, c.urls.collector+"/v1/replicas", &list); err != nil {
		return api.Rank{}, err
	}
	for _, replica := range list.Replicas {
		for _, r := range replica.Ranks {
			if r.Rank == rank {
				return r, nil
			}
		}
	}
	return api.Rank{}, fmt.Errorf("the collector does not know rank %d", rank)
}

// sayReplica tells what the collector holds about the replica as a whole.
func (c *cluster) sayReplica(ctx context.Context) error {
	var list api.ReplicaList
	if err := getJSON(ctx, c.operator, c.urls.collector+"/v1/replicas", &list); err != nil {
		return err
	}
	for _, r := range list.Replicas {
		if l := r.ExpertLoad; l != nil && l.MeanOfRatios != nil && l.RatioOfSums != nil {
			c.tell("collector", "%s %s: balancedness %.2f (mean of ratios), %.2f (ratio of sums)", r.Model, r.Replica, *l.MeanOfRatios, *l.RatioOfSums)
		}
		if k := r.KVCache; k != nil && k.HitRatio != nil {
			c.tell("collector", "%s %s: KV cache hit rate %.2f = %.0f of %.0f prompt tokens in %.0f s", r.Model, r.Replica, *k.HitRatio, k.HitTokens, k.QueryTokens, k.WindowSeconds)
		}
	}
	return nil
}

func firstReason(reasons []string) string {
	if len(reasons) == 0 {
		return "no reason given"
	}
	return reasons[0]
}

// pause waits while nothing is meant to happen.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
