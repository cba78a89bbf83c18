/* Every lock of the program, in the order in which they may be taken: a thread that holds one may
 * only take those further down.  No lock is held across I/O or a callback.
 * X(name, what it protects) */
#ifndef PANNIER_CACHE_LOCK_TABLE_H
#define PANNIER_CACHE_LOCK_TABLE_H

#define LOCK_TABLE(X)                                                                              \
    X(SERVER, "the list of connections and exchanges")                                             \
    X(ACCEPTOR, "how many connections each HTTP thread has")                                       \
    X(TOKENS, "who may do what on the admin listener")                                             \
    X(FLEET, "the claims of this node")                                                            \
    X(CHORES, "the job that this node has taken from the queue")                                   \
    X(SCHEDULE, "when repositories are to be fetched ahead, and when they were last")              \
    X(FLIGHTS, "questions to upstream that several requests share")                                \
    X(REFS, "the flights of questions about refs")                                                 \
    X(REPOSITORIES, "how often each repository was asked for")                                     \
    X(STALE, "what may still be answered while upstream is down")                                  \
    X(DECISIONS, "what upstream decided and advertised, per credential and repository")            \
    X(MANNERS, "the budgets of upstreams, and who was asked to wait")                              \
    X(CREDENTIALS, "the credentials of pannier's own, and who fetches newer ones")                 \
    X(ORIGINS, "the upstreams in use and their idle connections")                                  \
    X(JANITOR, "what the janitor has under way")                                                   \
    X(UPLOADS, "what is to go up into the shared tier")                                            \
    X(WORKERS, "a queue of jobs")                                                                  \
    X(MIRRORS, "the table of mirrors and each one's state")                                        \
    X(EXCHANGE, "one exchange's phase and upload window")                                          \
    X(ANSWERS, "the table of answers by key")                                                      \
    X(ANSWER, "one answer: its length, state and readers")                                         \
    X(PROCESSES, "the slots for git programs")                                                     \
    X(LOCAL, "the table of entries, and who reads the index")                                      \
    X(SHARED, "what the shared tier lacks, what was removed from it, and its latest round")        \
    X(CUTOFFS, "which invalidation of each repository is the newest")                              \
    X(KEEPER, "who used what of the shared tier, and the keeper's limits")                         \
    X(S3_CREDENTIALS, "the keys in use for S3, and who fetches newer ones")                        \
    X(S3_TRANSFER, "the parts or ranges of one object under way")                                  \
    X(S3_CONNECTIONS, "idle connections to an S3 endpoint")                                        \
    X(FOLDER, "the data folder's health")                                                          \
    X(LEASES, "the leases that this node holds or waits for")                                      \
    X(EVENTS, "where this node is in the stream of events")                                        \
    X(NODES, "what this node says of itself, and until when it counts as alive")                   \
    X(QUEUE, "jobs in the process, and who waits for some")                                        \
    X(PROGRESS, "how far the tasks of this process have come")                                     \
    X(RECORDS, "what is to be told of this node's disk")                                           \
    X(REDIS, "the connections to Redis, and whether it is there")                                  \
    X(REDIS_PLACE, "which Redis was the master last")                                              \
    X(LIBS3, "the making of a request by libs3, which uses what all threads share")                \
    X(GUARD, "whether the object store works, and how often it was asked")                         \
    X(SEEN, "which refs upstream has shown of each repository")                                    \
    X(TRAFFIC, "what was asked of each repository")                                                \
    X(HISTORY, "what was counted lately, by time")                                                 \
    X(LISTENERS, "what happened last, for who listens")                                            \
    X(METRICS, "what is counted of each upstream")                                                 \
    X(LOG, "the queue of log lines")

#endif
