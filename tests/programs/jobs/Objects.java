// Java: maps and lists of objects, streams on two threads, garbage for the collector, and a sort.
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;

public class Objects {
    record Person(int id, String name, long[] scores) {}

    static String digest(String text) throws Exception {
        byte[] hash = MessageDigest.getInstance("SHA-256").digest(text.getBytes(StandardCharsets.UTF_8));
        StringBuilder hex = new StringBuilder();
        for (int i = 0; i < 8; i++) hex.append(String.format("%02x", hash[i]));
        return hex.toString();
    }

    public static void main(String[] arguments) throws Exception {
        Random chance = new Random(12);
        Map<Integer, Person> people = new HashMap<>();
        for (int id = 0; id < 1_500_000; id++) {
            long[] scores = {chance.nextInt(1000), chance.nextLong(), id};
            people.put(id, new Person(id, "n" + Integer.toString(chance.nextInt(2000), 36), scores));
        }
        System.out.println("people " + people.size());
        TreeMap<String, List<Integer>> byName = new TreeMap<>();
        for (Person person : people.values()) {
            byName.computeIfAbsent(person.name(), name -> new ArrayList<>()).add(person.id());
        }
        System.out.println("names " + byName.size() + " " + digest(byName.headMap("n15").toString()));
        long sum = people.values().parallelStream().mapToLong(person -> person.scores()[1] >> 20).sum();
        System.out.println("sum " + sum);
        long[] ranks = people.values().stream()
            .mapToLong(person -> person.scores()[0] * 10_000_000 + person.id()).sorted().toArray();
        System.out.println("ranked " + digest(Arrays.toString(Arrays.copyOf(ranks, 100_000))));
        for (int turn = 0; turn < 5; turn++) {
            for (int id = turn; id < 1_500_000; id += 10) {
                people.put(id, new Person(id, "changed" + turn, new long[] {turn, id, id}));
            }
        }
        long changed = people.values().stream().filter(person -> person.name().startsWith("changed")).count();
        System.out.println("changed " + changed);
    }
}
