//! Programs that embed `polity`, each in `src/bin`: `demo`, which runs by default; `hello`, the smallest; `chat`, with a
//! topic and a presence; `kvd`, which clients of Redis can talk to; `bench`, the benchmarks. Each stands alone, so there is nothing in this library.
