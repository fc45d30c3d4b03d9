package hyperpod

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sagemaker"
	"github.com/aws/aws-sdk-go-v2/service/sagemaker/types"
	"github.com/aws/smithy-go"

	"github.com/evenkeel/evenkeel/remediate/incident"
)

// statusNotFound is how HyperPod lists an instance that it has no more.
const statusNotFound = string(types.ClusterInstanceStatusNotFound)

// listPage is the service's limit for one page of nodes.
const listPage = 100

// Instance gives one instance. A status that is not known is an error beside
// it. The error is an [incident.ErrNotFound] if HyperPod has none of this id:
// if its status is NotFound, or if HyperPod refuses to describe it and does not
// list it either. The refusal alone says the same of a cluster that does not
// exist.
func (c *Client) Instance(ctx context.Context, instanceID string) (incident.Machine, error) {
	if !instanceIDPattern.MatchString(instanceID) {
		return incident.Machine{}, fmt.Errorf("%.40q is not an instance id", instanceID)
	}
	machine, err := c.describe(ctx, instanceID)
	if code := errorCode(err); code == "ResourceNotFound" || code == "ValidationException" {
		if err := c.missing(ctx, instanceID); err != nil {
			return incident.Machine{}, fmt.Errorf("instance %s cannot be described (%s): %w", instanceID, code, err)
		}
		return incident.Machine{}, fmt.Errorf("instance %s: %w", instanceID, incident.ErrNotFound)
	}
	if err != nil {
		return incident.Machine{}, fmt.Errorf("instance %s: %w", instanceID, err)
	}
	if machine.Status == statusNotFound {
		return incident.Machine{}, fmt.Errorf("instance %s: %w: its status is %s", instanceID, incident.ErrNotFound, statusNotFound)
	}
	return machine, knownStatus(machine)
}

// missing gives nil if the cluster's list proves that it has no such instance.
func (c *Client) missing(ctx context.Context, instanceID string) error {
	all, err := c.inventory.get(ctx, c.list)
	if err != nil {
		return err
	}
	if machine, listed := all.byID[instanceID]; listed && machine.Status != statusNotFound {
		return errors.New("and yet it is listed")
	}
	return nil
}

// AtNode gives the instance that now carries a node name: the one launched
// last, for a replaced one can still be shutting down. Its error is an
// [incident.ErrNotFound] only if every listed instance has another name.
func (c *Client) AtNode(ctx context.Context, node string) (incident.Machine, error) {
	all, err := c.inventory.get(ctx, c.list)
	if err != nil {
		return incident.Machine{}, fmt.Errorf("node %s: %w", node, err)
	}
	if machine, ok := all.byNode[node]; ok {
		return machine, knownStatus(machine)
	}
	if all.nameless > 0 {
		return incident.Machine{}, fmt.Errorf("node %s: no instance carries the name, but the names of %d instances are not known", node, all.nameless)
	}
	return incident.Machine{}, fmt.Errorf("node %s: %w", node, incident.ErrNotFound)
}

// inventory is every instance of the cluster at one time.
type inventory struct {
	byID     map[string]incident.Machine
	byNode   map[string]incident.Machine
	nameless int // instances whose node name is not known
}

// list reads every page, and describes the instances whose summary does not
// give their name away.
func (c *Client) list(ctx context.Context) (inventory, error) {
	all := inventory{byID: make(map[string]incident.Machine), byNode: make(map[string]incident.Machine)}
	var token *string
	for {
		page, err := read(c, opListNodes, func() (*sagemaker.ListClusterNodesOutput, error) {
			return c.api.ListClusterNodes(ctx, &sagemaker.ListClusterNodesInput{
				ClusterName: &c.cluster, MaxResults: aws.Int32(listPage), NextToken: token,
			})
		})
		switch {
		case err != nil:
			return inventory{}, err
		case page.ClusterNodeSummaries == nil:
			return inventory{}, fmt.Errorf("%s: the answer holds no list of nodes", opListNodes)
		}
		for _, summary := range page.ClusterNodeSummaries {
			all.add(c.fromSummary(ctx, summary))
		}
		next := aws.ToString(page.NextToken)
		if next == "" {
			break
		}
		if next == aws.ToString(token) {
			return inventory{}, fmt.Errorf("%s: the answer's next page is the same page", opListNodes)
		}
		token = &next
	}
	c.names.keep(all.byID)
	return all, nil
}

func (i *inventory) add(m incident.Machine) {
	if m.InstanceID == "" { // not provisioned yet
		i.nameless++
		return
	}
	if _, twice := i.byID[m.InstanceID]; twice { // nodes that moved between two pages
		return
	}
	i.byID[m.InstanceID] = m
	switch {
	case m.Status == statusNotFound:
	case m.Node == "":
		i.nameless++
	default:
		if other, ok := i.byNode[m.Node]; !ok || m.Launched.After(other.Launched) {
			i.byNode[m.Node] = m
		}
	}
}

func (c *Client) fromSummary(ctx context.Context, s types.ClusterNodeSummary) incident.Machine {
	m := incident.Machine{
		InstanceID: aws.ToString(s.InstanceId),
		Node:       nodeName(aws.ToString(s.PrivateDnsHostname), ""),
		Group:      aws.ToString(s.InstanceGroupName),
		Launched:   aws.ToTime(s.LaunchTime),
	}
	m.Status, m.Running, m.Message = status(s.InstanceStatus)
	m.Busy = busy(m.Status)
	if m.Node == "" && m.InstanceID != "" {
		m.Node = c.names.get(m.InstanceID)
	}
	if m.Node == "" && m.InstanceID != "" {
		if described, err := c.describe(ctx, m.InstanceID); err == nil {
			m.Node = described.Node
		}
	}
	return m
}

// describe reads one instance and remembers its name.
func (c *Client) describe(ctx context.Context, instanceID string) (incident.Machine, error) {
	answer, err := read(c, opDescribeNode, func() (*sagemaker.DescribeClusterNodeOutput, error) {
		return c.api.DescribeClusterNode(ctx, &sagemaker.DescribeClusterNodeInput{ClusterName: &c.cluster, NodeId: &instanceID})
	})
	if err != nil {
		return incident.Machine{}, err
	}
	details := answer.NodeDetails
	if details == nil || aws.ToString(details.InstanceId) != instanceID {
		return incident.Machine{}, fmt.Errorf("%s: the answer is not about %s", opDescribeNode, instanceID)
	}
	m := incident.Machine{
		InstanceID: instanceID,
		Node:       nodeName(aws.ToString(details.PrivateDnsHostname), aws.ToString(details.PrivatePrimaryIp)),
		Group:      aws.ToString(details.InstanceGroupName),
		Launched:   aws.ToTime(details.LaunchTime),
	}
	m.Status, m.Running, m.Message = status(details.InstanceStatus)
	m.Busy = busy(m.Status)
	c.names.set(instanceID, m.Node)
	return m, nil
}

// nodeName is the Slurm name of a machine: the first label of its private DNS
// name, or else its address in that form. Empty if it has neither yet.
func nodeName(dnsName, ip string) string {
	if label, _, _ := strings.Cut(dnsName, "."); label != "" {
		return label
	}
	if ip == "" {
		return ""
	}
	return "ip-" + strings.ReplaceAll(ip, ".", "-")
}

// knownStatus gives an error for a machine whose status this version does not
// know, or that has none: the machine is not running then, but what it is
// instead is unknown, and unknown is no reason to do anything.
func knownStatus(m incident.Machine) error {
	switch m.Status {
	case "Running", "Failure", "Failed", "Pending", "ShuttingDown", "SystemUpdating", "DeepHealthCheckInProgress", "NotFound":
		return nil
	}
	return fmt.Errorf("instance %s: HyperPod's status %q is not one that this version knows", m.InstanceID, m.Status)
}

// status reads an instance's status. Only Running is running; the documentation
// also writes Failed where the API says Failure.
func status(s *types.ClusterInstanceStatusDetails) (word string, running bool, message string) {
	if s == nil {
		return "", false, ""
	}
	return string(s.Status), s.Status == types.ClusterInstanceStatusRunning, aws.ToString(s.Message)
}

// busy reports whether HyperPod itself is at work on an instance of that status.
func busy(status string) bool {
	switch types.ClusterInstanceStatus(status) {
	case types.ClusterInstanceStatusPending, types.ClusterInstanceStatusShuttingDown,
		types.ClusterInstanceStatusSystemUpdating, types.ClusterInstanceStatusDeepHealthCheckInProgress:
		return true
	}
	return false
}

// errorCode is the service's code for an error, empty if it was not the service
// that answered.
func errorCode(err error) string {
	if problem, ok := errors.AsType[smithy.APIError](err); ok {
		return problem.ErrorCode()
	}
	return ""
}

// names remembers the node names of instances, which do not change while the
// instance lives.
type names struct {
	mu sync.Mutex
	of map[string]string
}

func (n *names) get(instanceID string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.of[instanceID]
}

func (n *names) set(instanceID, node string) {
	if node == "" {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.of == nil {
		n.of = make(map[string]string)
	}
	n.of[instanceID] = node
}

// keep drops the names of instances that are not listed any more.
func (n *names) keep(listed map[string]incident.Machine) {
	n.mu.Lock()
	defer n.mu.Unlock()
	maps.DeleteFunc(n.of, func(id, _ string) bool { _, ok := listed[id]; return !ok })
}
