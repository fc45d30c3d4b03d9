package hyperpod

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// operations are the requests that are served. Each gives its answer and the
// instances on which it began work.
var operations = map[string]func(*Server, *request) (answer any, accepted []string, err error){
	"DescribeCluster":          (*Server).describeCluster,
	"ListClusterNodes":         (*Server).listNodes,
	"DescribeClusterNode":      (*Server).describeNode,
	"BatchReplaceClusterNodes": func(s *Server, r *request) (any, []string, error) { return s.batch(r, s.replace) },
	"BatchRebootClusterNodes":  func(s *Server, r *request) (any, []string, error) { return s.batch(r, s.reboot) },
}

const (
	// maxPage is the service's limit for MaxResults; defaultPage is ours.
	maxPage     = 100
	defaultPage = 50
	// maxBatch is how many ids of a kind a batch may name.
	maxBatch = 25

	instanceType = "ml.p5en.48xlarge"
)

var onCreate = lifeCycle{SourceS3URI: "s3://evenkeel-simulated/lifecycle", OnCreate: "on_create.sh"}

// isOurs refuses requests for clusters that do not exist.
func (s *Server) isOurs(r *request) error {
	if r.ClusterName != s.options.Cluster && r.ClusterName != s.arn {
		return refuse("ResourceNotFound", "Cluster with name %s does not exist", r.ClusterName)
	}
	return nil
}

func (s *Server) noSuchNode(id string) error {
	return refuse("ResourceNotFound", "Instance with ID %s not found in cluster %s", id, s.options.Cluster)
}

func (s *Server) describeCluster(*request) (any, []string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := make(map[string]int)
	created := time.Now()
	for _, m := range s.view(time.Now()) {
		counts[m.instance.Group]++
		if m.instance.Launched.Before(created) {
			created = m.instance.Launched
		}
	}
	answer := describeClusterAnswer{
		ClusterArn:     s.arn,
		ClusterName:    s.options.Cluster,
		ClusterStatus:  "InService",
		CreationTime:   seconds(created),
		InstanceGroups: []instanceGroup{},
		Orchestrator:   map[string]struct{}{"Slurm": {}},
		NodeRecovery:   s.options.NodeRecovery,
	}
	if s.options.Continuous {
		answer.NodeProvisioningMode = "Continuous"
	}
	for group, count := range counts {
		answer.InstanceGroups = append(answer.InstanceGroups, instanceGroup{
			InstanceGroupName: group, InstanceType: instanceType, CurrentCount: count, TargetCount: count,
			LifeCycleConfig: onCreate, ExecutionRole: "arn:aws:iam::" + account + ":role/hyperpod", ThreadsPerCore: 1, Status: "InService",
		})
	}
	slices.SortFunc(answer.InstanceGroups, func(a, b instanceGroup) int { return cmp.Compare(a.InstanceGroupName, b.InstanceGroupName) })
	return answer, nil, nil
}

func (s *Server) describeNode(r *request) (any, []string, error) {
	if (r.NodeID == "") == (r.NodeLogicalID == "") {
		return nil, nil, refuse("ValidationException", "Exactly one of NodeId and NodeLogicalId must be provided")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.view(time.Now()) {
		if r.NodeID != "" && m.instance.ID == r.NodeID || r.NodeLogicalID != "" && m.instance.LogicalID == r.NodeLogicalID {
			return describeNodeAnswer{nodeDetails{
				InstanceGroupName: m.instance.Group, InstanceID: m.instance.ID, NodeLogicalID: m.instance.LogicalID,
				InstanceType: instanceType, LaunchTime: seconds(m.instance.Launched),
				InstanceStatus: statusDetails{m.status, m.message}, LifeCycleConfig: onCreate, ThreadsPerCore: 1,
				PrivatePrimaryIP: m.instance.IP, PrivateDNSHostname: s.dnsName(m.instance),
				Placement: placement{AvailabilityZone: s.options.Region + "a", AvailabilityZoneID: "use1-az1"},
			}}, nil, nil
		}
	}
	return nil, nil, s.noSuchNode(cmp.Or(r.NodeID, r.NodeLogicalID))
}

func (s *Server) dnsName(i Instance) string {
	if s.options.Region == "us-east-1" {
		return i.Node + ".ec2.internal"
	}
	return i.Node + "." + s.options.Region + ".compute.internal"
}

// position is where a page ended: what the list is sorted by, so that a node
// that comes or goes between two pages shifts none of the others.
type position struct {
	Group    string
	Launched int64 // nanoseconds since 1970
	ID       string
}

func positionOf(i Instance) position { return position{i.Group, i.Launched.UnixNano(), i.ID} }

func (s *Server) listNodes(r *request) (any, []string, error) {
	order := func(a, b position) int {
		c := cmp.Compare(a.Launched, b.Launched)
		if r.SortBy == "NAME" {
			c = cmp.Compare(a.Group, b.Group)
		}
		if c = cmp.Or(c, cmp.Compare(a.ID, b.ID)); r.SortOrder == "Descending" {
			c = -c
		}
		return c
	}
	var start position
	if r.NextToken != "" {
		raw, err := base64.URLEncoding.DecodeString(r.NextToken)
		if err == nil {
			err = json.Unmarshal(raw, &start)
		}
		if err != nil {
			return nil, nil, refuse("ValidationException", "Invalid NextToken")
		}
	}
	size := defaultPage
	if r.MaxResults != nil {
		size = *r.MaxResults
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	nodes := slices.DeleteFunc(s.view(time.Now()), func(m moment) bool {
		launched := m.instance.Launched
		return !strings.Contains(m.instance.Group, r.InstanceGroupNameContains) ||
			r.CreationTimeAfter != nil && !launched.After(time.Time(*r.CreationTimeAfter)) ||
			r.CreationTimeBefore != nil && !launched.Before(time.Time(*r.CreationTimeBefore)) ||
			r.NextToken != "" && order(positionOf(m.instance), start) <= 0
	})
	slices.SortFunc(nodes, func(a, b moment) int { return order(positionOf(a.instance), positionOf(b.instance)) })
	answer := listNodesAnswer{ClusterNodeSummaries: []nodeSummary{}}
	for _, m := range nodes[:min(size, len(nodes))] {
		summary := nodeSummary{
			InstanceGroupName: m.instance.Group, InstanceID: m.instance.ID, InstanceType: instanceType,
			LaunchTime: seconds(m.instance.Launched), InstanceStatus: statusDetails{m.status, m.message},
		}
		if r.IncludeNodeLogicalIDs {
			summary.NodeLogicalID = m.instance.LogicalID
		}
		if !s.options.SummariesWithoutDNS {
			summary.PrivateDNSHostname = s.dnsName(m.instance)
		}
		answer.ClusterNodeSummaries = append(answer.ClusterNodeSummaries, summary)
	}
	if size < len(nodes) {
		answer.NextToken = base64.URLEncoding.EncodeToString(encode(positionOf(nodes[size-1].instance)))
	}
	return answer, nil, nil
}

// batch does one thing to each node named and reports each by itself.
func (s *Server) batch(r *request, do func(now time.Time, instanceID, logicalID string) (string, *nodeError)) (any, []string, error) {
	switch {
	case len(r.NodeIDs) == 0 && len(r.NodeLogicalIDs) == 0:
		return nil, nil, refuse("ValidationException", "At least one of NodeIds and NodeLogicalIds must be provided")
	case len(r.NodeIDs) > maxBatch:
		return nil, nil, invalid("nodeIds", r.NodeIDs, "have length less than or equal to 25")
	case len(r.NodeLogicalIDs) > maxBatch:
		return nil, nil, invalid("nodeLogicalIds", r.NodeLogicalIDs, "have length less than or equal to 25")
	case len(r.NodeLogicalIDs) > 0 && !s.options.Continuous:
		return nil, nil, refuse("ValidationException", "NodeLogicalIds are only supported for clusters with NodeProvisioningMode Continuous")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var answer batchAnswer
	var accepted []string
	now := time.Now()
	for _, id := range r.NodeIDs {
		instanceID, problem := do(now, id, "")
		if problem != nil {
			answer.Failed = append(answer.Failed, nodeFailure{id, problem.code, problem.message})
			continue
		}
		answer.Successful = append(answer.Successful, id)
		accepted = append(accepted, instanceID)
	}
	for _, id := range r.NodeLogicalIDs {
		instanceID, problem := do(now, "", id)
		if problem != nil {
			answer.FailedNodeLogicalIDs = append(answer.FailedNodeLogicalIDs, logicalFailure{id, problem.code, problem.message})
			continue
		}
		answer.SuccessfulNodeLogicalIDs = append(answer.SuccessfulNodeLogicalIDs, id)
		accepted = append(accepted, instanceID)
	}
	return answer, accepted, nil
}

// failEach answers a batch with the same error for every node.
func failEach(r *request, code string) batchAnswer {
	var answer batchAnswer
	for _, id := range r.NodeIDs {
		answer.Failed = append(answer.Failed, nodeFailure{id, code, "injected"})
	}
	for _, id := range r.NodeLogicalIDs {
		answer.FailedNodeLogicalIDs = append(answer.FailedNodeLogicalIDs, logicalFailure{id, code, "injected"})
	}
	return answer
}
