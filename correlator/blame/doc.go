// Package blame infers which link, device or host lost the packets of one
// epoch, how surely, or that nobody can say.
//
// # What lives here
//
// The fused method: a pure engine without clock or I/O. Everything is an
// integer id; names are for the result alone.
//
//   - network.go: links, devices and hosts by id
//   - ecmp.go: the shares of shortest paths, and traffic spread over them
//   - epoch.go, tally.go: what was seen; loss-free traffic counted on the way in
//   - traffic.go, row.go: loss-free packets per link, lossy flows as rows of
//     links and weights
//   - prepare.go: both together, ready for the likelihood
//   - poisson.go: the likelihood, and the gain of one more fault
//   - search.go: the greedy search, with refits and pruning
//   - span.go: times, and how the traffic is spread over them
//   - passing.go: did a link lose packets all the time, or for a moment?
//   - group.go: is it the device, or some of its links?
//   - fit.go: rates, noise and the share of stale paths, by expectation
//     maximisation
//   - drops.go: what devices say, and what they are good for in this epoch
//   - told.go: where their drops were, and faults they accuse put into the set
//   - honesty.go: which devices report wrong ports, by all they say together
//   - word.go: what their word and the hosts' amount to together
//   - noise.go: is there a class of noisy links?
//   - posterior.go: probabilities, rivals, equivalence classes
//   - ways.go: the faults that each lossy flow may have met, and how likely
//   - cause.go: the cause named for each lossy flow
//   - result.go: names, decision trace, abstention
//   - history.go: epoch after epoch, older evidence fading
//   - live.go: evidence that comes and goes, inferred from at any time
//   - vote.go: 007 as published, to compare with
//
// # What does not
//
// Clocks and findings over time are the caller's. Old evidence enters with its
// packets and losses scaled down; the likelihood takes fractions.
//
// # The model
//
// A flow of t packets on path P loses a Poisson number of them with mean
// t·(|P|·g + Σ x_c) over the faulty components c on P; g is the common noise
// and N_c the packets through c, loss-free ones included and spread over their
// ECMP set where the path is unknown:
//
//	LL = Σ_lossy r_f·ln(|P_f|·g + Σ_c x_c) − g·Σ_l N_l − Σ_c N_c·x_c
//
// A path reported for a flow is wrong with a small probability ε, estimated
// with the rest: then the flow took any path of its ECMP set.
//
// What a fault may lose is learned from the epoch's others: its prior is a flat
// one over the decades and a Gamma density about the rate of each of them, both
// averaged over the likelihood of its own losses, so that two losses, which tell
// little of a rate, are not taken for a fault like the ones that lost hundreds.
// Each learns from those that are surer than itself, so that a crowd of links of
// which none stands out cannot vouch for one another.
//
// # Moments
//
// A fault loses packets at its rate all the time, a queue that overflows only for
// a moment, at a rate N_c cannot show. Where losses have a time ([Flow.When]), the
// likelihood of each period a link's losses may have been in is averaged and
// weighed against all the time; where they have none, how many packets each lossy
// flow lost tells instead. What passes comes out as of class no-buffer, with its
// times, and is counted as a kind of its own: an epoch full of bursts does not make
// link faults likelier. Losses that go on to the end of the evidence are congestion
// while that is likelier, and a fault soon after.
//
// # The way through
//
// Begin with [Infer]; [History] and [Live] stand on it.
package blame
