// Package agentconfig is what host agents can be told while they run: whether to
// track connections and how, how many traces a second to start, which load
// balancer to ask before one, and which paths to look for on schedule. Settings are
// given for all hosts, for those with a tag, or for one host, and a host's own
// win over its tags', which win over those for all.
//
//   - settings.go names the keys, reads and checks their values.
//   - sampling.go, filter.go, balancer.go and survey.go are four sorts of value.
//   - scope.go says for whom settings are; merge.go puts them together, and beside
//     them 007's bound on traces for the topology, for where nobody sets a rate.
//   - store.go keeps them in the NATS bucket agent_config, and beside them what
//     comes of it for each host: agents read that one entry, each its own, and
//     hear when it changes (package bus), so no agent needs to know who else has
//     settings.
//
// What an agent makes of its settings is package hostagent's.
package agentconfig
